"""What a server is told: its models, and how much it takes on."""

import math
from dataclasses import dataclass, fields
from pathlib import Path

from speechnar.errors import ConfigError
from speechnar.hub import DEFAULT_MODEL, DEFAULT_TTS_MODEL


@dataclass(frozen=True, kw_only=True)
class ServeOptions:
    """The defaults suit one machine and a few people.

    Raises:
        ConfigError: a limit is not above 0, or the folder of voices does not exist.
    """

    asr_model: str = DEFAULT_MODEL
    """What transcribes where a request names no model of ours, as OpenAI's ``whisper-1``."""
    st_model: str | None = None
    """What translates speech; None: ``asr_model``, if it does."""
    tts_model: str = DEFAULT_TTS_MODEL
    """What speaks."""
    more_models: tuple[str, ...] = ()
    """Names and folders that requests may ask for beside these, the shipped ones and those in the hub's cache. No
    request makes the server fetch a model or open a folder."""
    voices: Path | None = None
    """A folder of ``NAME.wav``, perhaps with ``NAME.txt`` that says what is spoken there: what ``voice`` may be."""
    device: str = "auto"
    api_keys: tuple[str, ...] = ()
    """Bearer tokens, of which every request but ``/health`` must have one; without any, everybody is served."""
    max_upload_bytes: int = 200_000_000
    max_audio_s: float = 4 * 3600.0
    """Of a recording."""
    max_text_chars: int = 20_000
    """To be spoken at once."""
    max_queue_s: float = 1800.0
    """Seconds of audio that may wait to be transcribed; further requests are told to come back."""
    max_waiting_texts: int = 16
    """Texts that may wait to be spoken; likewise."""
    max_sessions: int = 32
    """Live captions at a time."""
    idle_s: float = 60.0
    """Without a byte from a client before it is left."""
    model_idle_s: float = 900.0
    """Without a request before a model leaves memory."""
    max_model_bytes: int = 4_000_000_000
    """Of models in memory; those that wait longest leave for another."""
    batch_s: float = 60.0
    """Seconds of audio of waiting requests that are decoded together; 0 decodes each alone."""

    def __post_init__(self) -> None:
        """Check ranges."""
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, int | float) and not (
                0 < value < math.inf or (field.name == "batch_s" and value == 0)
            ):
                raise ConfigError(f"{field.name} must be above 0, got {value}")
        if self.voices is not None and not self.voices.is_dir():
            raise ConfigError(f"voices must be a folder of NAME.wav files, {str(self.voices)!r} is none")

    @property
    def models(self) -> frozenset[str]:
        """Names and folders of models that requests may ask for, whatever else is on this machine."""
        chosen = {self.asr_model, self.tts_model, *self.more_models}
        return frozenset(chosen if self.st_model is None else {*chosen, self.st_model})
