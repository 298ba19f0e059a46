"""How speech is to be made or edited, for whoever wants it otherwise than by default."""

from dataclasses import dataclass, replace
from typing import Any, TypeVar

from speechnar.errors import ConfigError
from speechnar.text.passages import EMOJI, Emoji

MAX_STEPS = 1000
MAX_CANDIDATES = 64
SPEED_RANGE = (0.5, 2.0)


@dataclass(frozen=True, kw_only=True)
class SynthesizeOptions:
    """Choices beyond voice and seed.

    Raises:
        ConfigError: a value lies outside its range.
    """

    steps: int | None = None
    """Network evaluations for a block of latents; None: as many as the model's card says under ``steps``, or 16."""
    speed: float = 1.0
    """2 is twice as fast."""
    emoji: Emoji = "skipped"
    """What becomes of emoji: skipped, or named."""

    def __post_init__(self) -> None:
        """Check ranges."""
        if self.steps is not None:
            check_steps(self.steps)
        if not SPEED_RANGE[0] <= self.speed <= SPEED_RANGE[1]:
            raise ConfigError(f"speed must lie in [{SPEED_RANGE[0]:g}, {SPEED_RANGE[1]:g}], got {self.speed}")
        if self.emoji not in EMOJI:
            raise ConfigError(f"emoji must be {' or '.join(EMOJI)}, got {self.emoji!r}")


@dataclass(frozen=True, kw_only=True)
class EditOptions:
    """Choices beyond what is said and the seed.

    Raises:
        ConfigError: a value lies outside its range.
    """

    steps: int | None = None
    """Network evaluations for a block of latents; None: as many as the model's card says under ``edit_steps``, else as
    of `SynthesizeOptions`."""
    candidates: int = 8
    """Of each change, how many are made; the one is kept that is most like all of them and after which the model goes
    on as the recording does."""

    def __post_init__(self) -> None:
        """Check ranges."""
        if self.steps is not None:
            check_steps(self.steps)
        if not isinstance(self.candidates, int) or not 1 <= self.candidates <= MAX_CANDIDATES:
            raise ConfigError(f"candidates must be a whole number from 1 to {MAX_CANDIDATES}, got {self.candidates!r}")


Options = TypeVar("Options", SynthesizeOptions, EditOptions)


def with_keywords(options: Options, **keywords: Any) -> Options:
    """Return ``options`` with those of ``keywords`` that are given, and not None.

    Raises:
        ConfigError: one is given in both ways, or lies outside its range.
    """
    given = {name: value for name, value in keywords.items() if value is not None}
    defaults = type(options)()
    for name in given:
        if getattr(options, name) != getattr(defaults, name):
            raise ConfigError(f"{name} is given twice; leave out {name} or options.{name}")
    return replace(options, **given)


def check_steps(steps: int) -> int:
    """Return ``steps``, how often the network is to be evaluated for a block.

    Raises:
        ConfigError: it is no whole number from 1 to `MAX_STEPS`.
    """
    if not isinstance(steps, int) or not 1 <= steps <= MAX_STEPS:
        raise ConfigError(f"steps must be a whole number from 1 to {MAX_STEPS}, got {steps!r}")
    return steps
