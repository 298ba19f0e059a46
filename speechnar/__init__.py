"""Non-autoregressive speech and audio: recognition, translation, synthesis, editing and generation.

The public names below load on first use, so that ``import speechnar`` costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from speechnar.asr.cuts import TokenCuts
    from speechnar.asr.options import DecodeOptions
    from speechnar.asr.stream import SpeechStream
    from speechnar.asr.transcriber import Comparison, DetectedLanguage, Transcriber
    from speechnar.asr.verbs import align, detect_language, transcribe
    from speechnar.audio.io import Audio
    from speechnar.captions import CaptionStream, CaptionUpdate
    from speechnar.cascade import Cascade, translate
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
    from speechnar.mt.stream import TranslationStream, TranslationUpdate
    from speechnar.mt.systems import TranslationOptions
    from speechnar.mt.translator import TranslatedPiece, Translation, Translator
    from speechnar.sound.generator import Generator, Sketch, Sound, generate
    from speechnar.sound.options import GeneratorOptions
    from speechnar.text.transcript import AudioTags, Segment, Transcript, Word
    from speechnar.tts.editor import Change, EditedSpeech
    from speechnar.tts.options import EditOptions, SynthesizeOptions
    from speechnar.tts.synthesizer import Speech, SpokenToken, Synthesizer, edit, synthesize
    from speechnar.tts.voice import Voice

__version__ = "0.1.0"

__all__ = [
    "Audio",
    "AudioError",
    "AudioTags",
    "CaptionStream",
    "CaptionUpdate",
    "Cascade",
    "Change",
    "CheckpointError",
    "Comparison",
    "ConfigError",
    "DataError",
    "DecodeOptions",
    "DetectedLanguage",
    "EditOptions",
    "EditedSpeech",
    "Generator",
    "GeneratorOptions",
    "ModelNotFoundError",
    "Segment",
    "ShapeError",
    "Sketch",
    "Sound",
    "Speech",
    "SpeechStream",
    "SpeechnarError",
    "SpokenToken",
    "SynthesizeOptions",
    "Synthesizer",
    "TokenCuts",
    "Transcriber",
    "Transcript",
    "TranslatedPiece",
    "Translation",
    "TranslationOptions",
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
    "AudioTags": "text.transcript",
    "CaptionStream": "captions",
    "CaptionUpdate": "captions",
    "Cascade": "cascade",
    "Change": "tts.editor",
    "Comparison": "asr.transcriber",
    "DecodeOptions": "asr.options",
    "DetectedLanguage": "asr.transcriber",
    "EditOptions": "tts.options",
    "EditedSpeech": "tts.editor",
    "Generator": "sound.generator",
    "GeneratorOptions": "sound.options",
    "Segment": "text.transcript",
    "Sketch": "sound.generator",
    "Sound": "sound.generator",
    "Speech": "tts.synthesizer",
    "SpeechStream": "asr.stream",
    "SpokenToken": "tts.synthesizer",
    "SynthesizeOptions": "tts.options",
    "Synthesizer": "tts.synthesizer",
    "TokenCuts": "asr.cuts",
    "Transcriber": "asr.transcriber",
    "Transcript": "text.transcript",
    "TranslatedPiece": "mt.translator",
    "Translation": "mt.translator",
    "TranslationOptions": "mt.systems",
    "TranslationStream": "mt.stream",
    "TranslationUpdate": "mt.stream",
    "Translator": "mt.translator",
    "Voice": "tts.voice",
    "Word": "text.transcript",
    "align": "asr.verbs",
    "detect_language": "asr.verbs",
    "edit": "tts.synthesizer",
    "generate": "sound.generator",
    "list_models": "hub",
    "synthesize": "tts.synthesizer",
    "transcribe": "asr.verbs",
    "translate": "cascade",
}


if not TYPE_CHECKING:  # type checkers read the imports above, so that a name that does not exist is an error

    def __getattr__(name: str) -> Any:
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(import_module(f"{__name__}.{_MODULE_OF.get(name, 'errors')}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
