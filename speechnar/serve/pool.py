"""Models in memory: loaded by the first request, dropped when nobody asks for them or when others need the room."""

import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

from speechnar.errors import ModelNotFoundError
from speechnar.hub import list_models, resolve_model

logger = logging.getLogger(__name__)

Model = TypeVar("Model")
BYTES_IN_MEMORY = 2
"""Of a byte on disk: weights are stored in half precision and computed with in full."""


@dataclass
class _Held:
    """A model and who uses it; ``lock`` is held while it is loaded."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    model: Any = None
    num_bytes: int = 0
    num_users: int = 0
    used_at: float = 0.0


class ModelPool(Generic[Model]):
    """Models of one class by name; to be used from many threads.

    Args:
        load: the name of a model to the model.
        known: names that may be asked for, and the models that they stand for.
        idle_s: without a request before a model is dropped by `drop_idle`.
        max_bytes: about how much may be held; a single larger model still is loaded.
    """

    def __init__(
        self, load: Callable[[str], Model], known: Mapping[str, str], *, idle_s: float, max_bytes: int
    ) -> None:
        self._load = load
        self._known = dict(known)
        self._idle_s = idle_s
        self._max_bytes = max_bytes
        self._held: dict[str, _Held] = {}
        self._lock = threading.Lock()

    def find(self, name: str) -> str:
        """Return the model that a request's name stands for.

        Raises:
            ModelNotFoundError: it is none that may be asked for.
        """
        if name in self._known:
            return self._known[name]
        if name in {info.name for info in list_models()}:  # perhaps pulled since the start
            return name
        raise ModelNotFoundError(f"there is no model {name!r} here; GET /v1/models lists those that are")

    @contextmanager
    def use(self, name: str) -> Iterator[Model]:
        """Give a model that stays in memory meanwhile; loading it takes its time.

        Raises:
            ModelNotFoundError: as of `find`, or its files are gone.
            CheckpointError: its files are damaged.
        """
        name = self.find(name)
        with self._lock:
            held = self._held.setdefault(name, _Held())
            held.num_users += 1
        try:
            with held.lock:
                if held.model is None:
                    held.num_bytes = BYTES_IN_MEMORY * _bytes_of(resolve_model(name))
                    self._make_room(held.num_bytes)
                    started = time.monotonic()
                    held.model = self._load(name)
                    logger.info("loaded %s in %.1f s", name, time.monotonic() - started)
            yield held.model
        finally:
            with self._lock:
                held.num_users -= 1
                held.used_at = time.monotonic()
                if held.model is None and not held.num_users:
                    del self._held[name]

    @property
    def num_bytes(self) -> int:
        """About how much memory the models take."""
        with self._lock:
            return sum(held.num_bytes for held in self._held.values())

    def loaded(self) -> list[str]:
        """Return the names of the models in memory."""
        with self._lock:
            return sorted(name for name, held in self._held.items() if held.model is not None)

    def drop_idle(self) -> None:
        """Drop the models that nobody has asked for during ``idle_s``."""
        before = time.monotonic() - self._idle_s
        with self._lock:
            for name, held in [*self._held.items()]:
                if not held.num_users and held.used_at < before:
                    del self._held[name]
                    logger.info("dropped %s, which was idle", name)

    def _make_room(self, num_bytes: int) -> None:
        with self._lock:
            idle = sorted((held.used_at, name) for name, held in self._held.items() if not held.num_users)
            total = sum(held.num_bytes for held in self._held.values() if held.model is not None) + num_bytes
            for _, name in idle:
                if total <= self._max_bytes:
                    return
                total -= self._held.pop(name).num_bytes
                logger.info("dropped %s to make room", name)


def _bytes_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.glob("*.safetensors"))
