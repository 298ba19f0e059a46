"""Non-autoregressive speech and audio: recognition, translation, synthesis, editing and generation.

The public names below load on first use, so that ``import speechnar`` costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from speechnar.api import Comparison, DetectedLanguage, Transcriber, align, detect_language, transcribe, translate
    from speechnar.clip_decoder import DecodeOptions
    from speechnar.errors import (
        AudioError,
        CheckpointError,
        ConfigError,
        DataError,
        ModelNotFoundError,
        ShapeError,
        SpeechnarError,
    )
    from speechnar.hub import list_models
    from speechnar.stream import SpeechStream
    from speechnar.text.transcript import Segment, Transcript, Word

__version__ = "0.1.0"

__all__ = [
    "AudioError",
    "CheckpointError",
    "Comparison",
    "ConfigError",
    "DataError",
    "DecodeOptions",
    "DetectedLanguage",
    "ModelNotFoundError",
    "Segment",
    "ShapeError",
    "SpeechStream",
    "SpeechnarError",
    "Transcriber",
    "Transcript",
    "Word",
    "align",
    "detect_language",
    "list_models",
    "transcribe",
    "translate",
]

_MODULE_OF = {
    "Comparison": "api",
    "DecodeOptions": "clip_decoder",
    "DetectedLanguage": "api",
    "Segment": "text.transcript",
    "SpeechStream": "stream",
    "Transcriber": "api",
    "Transcript": "text.transcript",
    "Word": "text.transcript",
    "align": "api",
    "detect_language": "api",
    "list_models": "hub",
    "transcribe": "api",
    "translate": "api",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULE_OF.get(name, 'errors')}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
