"""Non-autoregressive speech and audio: recognition, translation, synthesis, editing and generation.

The public names below load on first use, so that ``import speechnar`` costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from speechnar.api import Comparison, DetectedLanguage, Transcriber, align, detect_language, transcribe, translate
    from speechnar.audio.io import Audio
    from speechnar.captions import CaptionStream, CaptionUpdate
    from speechnar.clip_decoder import DecodeOptions
    from speechnar.editor import Change, EditedSpeech
    from speechnar.errors import (
        AudioError,
        CheckpointError,
        ConfigError,
        DataError,
        ModelNotFoundError,
        ShapeError,
        SpeechnarError,
    )
    from speechnar.generator import Generator, GeneratorOptions, Sound, generate
    from speechnar.hub import list_models
    from speechnar.stream import SpeechStream
    from speechnar.synthesizer import Speech, Synthesizer, edit, synthesize
    from speechnar.text.transcript import Segment, Transcript, Word
    from speechnar.translation_stream import TranslationStream, TranslationUpdate
    from speechnar.translator import TranslatedPiece, Translation, Translator
    from speechnar.voice import Voice

__version__ = "0.1.0"

__all__ = [
    "Audio",
    "AudioError",
    "CaptionStream",
    "CaptionUpdate",
    "Change",
    "CheckpointError",
    "Comparison",
    "ConfigError",
    "DataError",
    "DecodeOptions",
    "DetectedLanguage",
    "EditedSpeech",
    "Generator",
    "GeneratorOptions",
    "ModelNotFoundError",
    "Segment",
    "ShapeError",
    "Sound",
    "Speech",
    "SpeechStream",
    "SpeechnarError",
    "Synthesizer",
    "Transcriber",
    "Transcript",
    "TranslatedPiece",
    "Translation",
    "TranslationStream",
    "TranslationUpdate",
    "Translator",
    "Voice",
    "Word",
    "align",
    "detect_language",
    "edit",
    "generate",
    "list_models",
    "synthesize",
    "transcribe",
    "translate",
]

_MODULE_OF = {
    "Audio": "audio.io",
    "CaptionStream": "captions",
    "CaptionUpdate": "captions",
    "Change": "editor",
    "Comparison": "api",
    "DecodeOptions": "clip_decoder",
    "DetectedLanguage": "api",
    "EditedSpeech": "editor",
    "Generator": "generator",
    "GeneratorOptions": "generator",
    "Segment": "text.transcript",
    "Sound": "generator",
    "Speech": "synthesizer",
    "SpeechStream": "stream",
    "Synthesizer": "synthesizer",
    "Transcriber": "api",
    "Transcript": "text.transcript",
    "TranslatedPiece": "translator",
    "Translation": "translator",
    "TranslationStream": "translation_stream",
    "TranslationUpdate": "translation_stream",
    "Translator": "translator",
    "Voice": "voice",
    "Word": "text.transcript",
    "align": "api",
    "detect_language": "api",
    "edit": "synthesizer",
    "generate": "generator",
    "list_models": "hub",
    "synthesize": "synthesizer",
    "transcribe": "api",
    "translate": "api",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULE_OF.get(name, 'errors')}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
