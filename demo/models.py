"""The models that the page offers, by what they can do, and those that are in memory."""

import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, TypeVar

import speechnar
from speechnar import Generator, Transcriber, Translator, list_models
from speechnar.hub import DEFAULT_MODEL, DEFAULT_MT_MODEL, DEFAULT_MUSIC_MODEL, DEFAULT_TTS_MODEL, ModelInfo
from speechnar.text.languages import name_of, to_iso3

Model = TypeVar("Model")

KEPT = 2
"""Models of a task that stay in memory."""
SEVERAL_DECODERS = ("joint",)
"""Kinds of models with several decoders."""
REVISING = ("fretna", "fretna_ctc", "reta")
"""Kinds of models that translate text and can take back what captions take back; wait-k cannot."""


class Row(Generic[Model]):
    """Models of one task, loaded when they are first asked for; those that were asked for last stay."""

    def __init__(self, load: Callable[[str], Model]) -> None:
        self._load = load
        self._models: OrderedDict[str, Model] = OrderedDict()
        self._lock = threading.Lock()

    def __call__(self, name: str) -> Model:
        """Return a model; whoever asks meanwhile waits, so that none is loaded twice."""
        with self._lock:
            if name not in self._models:
                self._models[name] = self._load(name)
            self._models.move_to_end(name)
            if len(self._models) > KEPT:
                self._models.popitem(last=False)
            return self._models[name]


class Shelf:
    """The models of all tasks."""

    def __init__(self, *, device: str = "auto") -> None:
        self.transcriber = Row(lambda name: Transcriber.load(name, device=device))
        self.synthesizer = Row(lambda name: speechnar.Synthesizer.load(name, device=device))
        self.translator = Row(lambda name: Translator.load(name, device=device))
        self.generator = Row(lambda name: Generator.load(name, device=device))


class Offer:
    """The models on this machine, the package's own choice first in each list."""

    def __init__(self, models: list[ModelInfo] | None = None) -> None:
        self._models = list_models() if models is None else models
        self.recognizers = self._of("asr", DEFAULT_MODEL)
        self.voices = self._of("tts", DEFAULT_TTS_MODEL)
        self.generators = self._of("generation", DEFAULT_MUSIC_MODEL)
        self.comparable = [name for name in self.recognizers if self._kind(name) in SEVERAL_DECODERS]
        self.comparable = self.comparable or self.recognizers
        self.translators = [name for name in self._of("mt", DEFAULT_MT_MODEL) if self._kind(name) in REVISING]

    def languages(self, name: str) -> list[str]:
        """Return the languages of a model as its card has them, ISO 639-3."""
        return [to_iso3(language) for info in self._models if info.name == name for language in info.languages]

    def about(self, name: str) -> str:
        """Return what a model's card calls it, and its languages; nothing of one that is not here."""
        info = next((info for info in self._models if info.name == name), None)
        if info is None:
            return ""
        try:
            card = (info.folder / "README.md").read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError):  # a model needs none
            card = ""
        title = next((line.lstrip("# ") for line in card.splitlines() if line.startswith("# ")), "")
        spoken = ", ".join(sorted(map(name_of, self.languages(name))))
        return ". ".join(filter(None, (title, spoken)))

    def _kind(self, name: str) -> str:
        return next((info.kind for info in self._models if info.name == name), "")

    def _of(self, task: str, default: str) -> list[str]:
        names = [info.name for info in self._models if task in info.tasks]
        return sorted(names, key=lambda name: name != default) or ([default] if task != "mt" else [])


def language_choices(languages: list[str] | tuple[str, ...]) -> list[tuple[str, str]]:
    """Return a drop-down's choices: to detect the language, then the languages by name."""
    return [("Detect", "auto"), *sorted((name_of(language), language) for language in languages)]
