"""How music and sound are to be made, for whoever wants it otherwise than by default."""

from dataclasses import dataclass

from speechnar.errors import ConfigError

MAX_SECONDS = 600.0
"""That are made at one call; more is a typing error."""
MAX_STEPS = 1000
MAX_GUIDANCE = 100.0


@dataclass(frozen=True, kw_only=True)
class GeneratorOptions:
    """How to generate, for whoever wants it otherwise; None: as the model says."""

    steps: int | tuple[int, ...] | None = None
    """Network evaluations for each window of a parallel model, or for each codebook of a window."""
    guidance: float | None = None
    """Weight of a prompt, at first for a parallel model; 1: none beyond it."""
    temperature: float | None = None
    rescore: bool = False
    """Let the autoregressive partner have a say in what a parallel model keeps."""
    lead_seconds: float = 0.0
    """How much the autoregressive partner makes before a parallel model goes on (hybrid)."""


def share_steps(total: int | tuple[int, ...], steps: tuple[int, ...]) -> tuple[int, ...]:
    """Return ``total`` evaluations for the codebooks, in the proportions of ``steps``; at least one for each.

    Those of each codebook may be given instead.

    Raises:
        ConfigError: there are fewer than codebooks, too many, or not as many numbers as codebooks.
    """
    if isinstance(total, tuple):
        if len(total) != len(steps) or not all(1 <= each <= MAX_STEPS for each in total):
            raise ConfigError(
                f"steps must be one number for each of {len(steps)} codebooks, each in [1, {MAX_STEPS}]; got "
                f"{','.join(map(str, total))}"
            )
        return total
    if not len(steps) <= total <= MAX_STEPS:
        raise ConfigError(f"steps must lie in [{len(steps)}, {MAX_STEPS}], one for each codebook at least; got {total}")
    shares = [max(1, round(total * each / sum(steps))) for each in steps]
    shares[0] = max(1, shares[0] + total - sum(shares))
    return tuple(shares)
