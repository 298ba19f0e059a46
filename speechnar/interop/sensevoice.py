"""FunASR's options, pieces and card of SenseVoice models, and what they mean here.

SentencePiece's piece 0, which is ``<unk>``, is what CTC took for its blank. What cannot be spelled is piece 1 here: it
was ``<s>``, which no text that such a model learnt holds.

Source: FunASR 1.4.16's ``SenseVoiceSmall``, ``SenseVoiceEncoderSmall`` and ``SentencepiecesTokenizer`` (MIT licence).
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import ConfigDict, Field

from speechnar.config import Config, parse_config
from speechnar.errors import DataError
from speechnar.interop.funasr_options import FrontendOptions, SanmEncoderOptions
from speechnar.models.asr.sensevoice import LANGUAGES, SenseVoiceConfig
from speechnar.text.languages import ISO3_TO_ISO1
from speechnar.text.tokenizer import BLANK, UNK, SentencePieceTokenizer, model_pieces

SENSEVOICE = "SenseVoiceSmall"
"""What ``config.yaml`` calls the model."""
NORM_EPS = 1e-5
"""Of all layer norms of these models."""
_FIRST_PIECES = ["<unk>", "<s>", "</s>"]


class _EncoderOptions(SanmEncoderOptions):
    tp_blocks: int = Field(default=0, ge=0, le=1024)
    stochastic_depth_rate: float = 0.0
    """Of effect in training alone."""

    def ours(self) -> dict[str, Any]:
        return {**super().ours(), "num_upper_layers": self.tp_blocks, "norm_eps": NORM_EPS}


class _ModelOptions(Config):
    ignore_id: int = -1
    blank_id: Literal[0] = 0
    sos: Literal[1] = 1
    eos: Literal[2] = 2
    length_normalized_loss: bool = False
    lsm_weight: float = 0.0
    """Of effect in training alone, as is the one above."""
    input_size: int | None = None
    vocab_size: int | None = None


class _Options(Config):
    """What defines a model among everything in ``config.yaml``; the rest is about its training."""

    model_config = ConfigDict(extra="ignore", protected_namespaces=())

    model: Literal["SenseVoiceSmall"]
    model_conf: _ModelOptions = _ModelOptions()
    encoder: Literal["SenseVoiceEncoderSmall"]
    encoder_conf: _EncoderOptions
    frontend: Literal["WavFrontend"] = "WavFrontend"
    frontend_conf: FrontendOptions = FrontendOptions()
    ctc_conf: dict[str, Any] | None = None
    normalize: None = None
    specaug: str | None = None
    """Ours has masks of its own."""
    tokenizer: Literal["SentencepiecesTokenizer"]


def parse_sensevoice(values: Mapping[str, Any], source: str = "config.yaml") -> SenseVoiceConfig:
    """Return our configuration of the model that the content of FunASR's ``config.yaml`` describes.

    Raises:
        ConfigError: naming every option that has no counterpart here.
    """
    options = parse_config(values, _Options, source=source)
    ours: dict[str, Any] = {
        "frontend": options.frontend_conf.ours(),
        "normalize": "global",
        "encoder": options.encoder_conf.ours(),
    }
    if options.specaug is None:
        ours["spec_augment"] = None
    return parse_config(ours, SenseVoiceConfig, source=f"{source}: FunASR options")


def read_tokenizer(path: Path) -> SentencePieceTokenizer:
    """Read the SentencePiece model that a SenseVoice model's folder holds.

    Raises:
        DataError: it is no SentencePiece model, or not one of these models.
    """
    pieces = model_pieces(path)
    if pieces[:3] != _FIRST_PIECES:
        raise DataError(f"{path}: must begin with {', '.join(_FIRST_PIECES)}, got {pieces[:3]}")
    missing = [label for _, label in LANGUAGES.values() if label not in pieces]
    if missing:
        raise DataError(f"{path}: must have a piece for each language of SenseVoice; no {', '.join(missing)}")
    return SentencePieceTokenizer(path, [BLANK, UNK, *pieces[2:]], source=str(path))


def card_languages() -> list[str]:
    """Return the languages of SenseVoice as model cards write them."""
    return [ISO3_TO_ISO1.get(lang, lang) for lang in LANGUAGES]
