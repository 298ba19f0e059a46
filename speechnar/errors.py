"""The exception tree: every error is ours and a builtin, so callers may catch either."""


class SpeechnarError(Exception):
    """Base of every error this package raises on purpose; its message is one line for a user."""


class ConfigError(SpeechnarError, ValueError):
    """An option, a constructor argument or a configuration file is wrong."""


class ShapeError(SpeechnarError, ValueError):
    """A tensor does not have the shape or the dtype that was promised."""


class AudioError(SpeechnarError, ValueError):
    """Audio cannot be read, or its content cannot be used."""


class DataError(SpeechnarError, ValueError):
    """A manifest, a transcript, a token list or an archive is malformed."""


class ModelNotFoundError(SpeechnarError, LookupError):
    """No model of that name is shipped, cached, reachable or in that folder."""


class CheckpointError(SpeechnarError, RuntimeError):
    """A checkpoint is unreadable, unsafe, or does not fit the model."""


class MissingExtraError(SpeechnarError, ImportError):
    """A package that only some tasks need is not installed, or does not import."""
