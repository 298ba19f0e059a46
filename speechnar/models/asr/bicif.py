"""BiCIF: second weights, finer than the encoder's frames, that tell when the tokens of Paraformer are spoken.

The layers are in `speechnar.nn.cif.TimestampPredictor`.

Sources: Shi et al., "Achieving Timestamp Prediction While Recognizing with Non-Autoregressive End-to-End ASR Model",
2023, section 4 (times from fires); Gao et al., "FunASR", Interspeech 2023, section 3.2 (the second weights).
"""

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt

from speechnar.config import Config

Probability = Annotated[float, Field(ge=0.0, lt=1.0)]


class TimestampConfig(Config):
    """The second weights of BiCIF, which time the tokens."""

    steps_per_frame: PositiveInt = 3
    """Weights for each encoder frame; frames of 60 ms give steps of 20 ms."""
    smooth_factor: PositiveFloat = 0.25
    noise_threshold: NonNegativeFloat = 0.01
    weight: NonNegativeFloat = 0.5
    """Of their quantity loss."""


@dataclass(frozen=True)
class TokenTimes:
    """When the tokens of one path are spoken, in encoder frames and fractions of them."""

    starts: list[float]
    ends: list[float]
