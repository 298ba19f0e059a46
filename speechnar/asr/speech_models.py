"""What decoding asks of the models that it drives: every recogniser has the first, some have more of them.

Shapes: B clips, S samples, T positions (the model's prefix, then frames), V vocabulary, L languages, P ids of a prefix.
"""

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

from torch import Tensor

from speechnar.decode.align import CtcPath
from speechnar.nn.ctc import CtcPosteriors


@runtime_checkable
class SpeechModel(Protocol):
    """What decoding asks of a model (`speechnar.models.asr.owsm_ctc.OwsmCtc` has it)."""

    blank_id: int
    num_prefix: int
    sample_rate: int
    frame_shift_s: float
    decoder_names: tuple[str, ...]
    """``ctc``, if the model has it, then others (of a `ManyDecoders`); the first is the default."""

    def encode(self, wav: Tensor, wav_lens: Tensor, **context: Tensor | None) -> Any:
        """Map wav (B, S) and wav_lens (B,) to ``.log_probs`` (B, T, V), None without CTC, and ``.lens`` (B,)."""


@runtime_checkable
class FindsBest(Protocol):
    """What a model returns that need not compute all log-probabilities to find the best labels."""

    posteriors: CtcPosteriors
    lens: Tensor


class ManyDecoders(SpeechModel, Protocol):
    """A model with other decoders than CTC."""

    def decode(self, out: Any, decoder: str, **options: Any) -> list[CtcPath]:
        """Decode what `encode` returned; frames count from the first one of audio."""


@runtime_checkable
class TaggingModel(Protocol):
    """A model that names language, emotion and sound beside the text, and is told how to write it.

    `speechnar.models.asr.sensevoice.SenseVoice` is one.
    """

    language_ids: dict[str, int]
    """The languages that it is told or finds out, by ISO 639-3 code, and their tokens."""

    def prefix_of(self, language: str | None = None, *, plain: bool = False) -> Tensor:
        """Return what `SpeechModel.encode` takes as ``prefix`` (1, P); without a language, it is found out."""

    def language_probs(self, out: Any) -> Tensor:
        """Return the probability (B, L) of each of ``language_ids``, from what `SpeechModel.encode` returned."""

    def tags(self, out: Any) -> list[tuple[str | None, str | None]]:
        """Return emotion and event of each clip; None: unknown."""


@runtime_checkable
class PaddedModel(Protocol):
    """A model that may have been trained on clips of one length alone."""

    clip_s: float | None
    """Seconds that shorter ones are padded to; None: it takes any length."""


@runtime_checkable
class HotwordModel(Protocol):
    """A model that may have learnt to be biased towards hotwords."""

    knows_hotwords: bool

    def hotword_vectors(self, hotwords: Sequence[Sequence[int]]) -> Tensor:
        """Return what `ManyDecoders.decode` takes as ``hotwords`` (and weighs by ``hotword_weight``), for token ids."""
