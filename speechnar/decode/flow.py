"""Flow matching: the straight path from data to noise, its velocity, and the way back.

Shapes: B utterances, T latents, C channels; times are 0 at the data and 1 at the noise.
Sources: Lipman et al., "Flow Matching for Generative Modeling", ICLR 2023, equations 22 and 23; Liu et al., "Flow
Straight and Fast", ICLR 2023 (the straight path).
"""

from collections.abc import Callable

from torch import Tensor

from speechnar.errors import ConfigError


def mix(latents: Tensor, noise: Tensor, times: Tensor) -> tuple[Tensor, Tensor]:
    """Return the noisy latents (1 - t) z + t w and the velocity w - z of their path, both (B, T, C).

    Lipman et al. 2023, equations 22 and 23, without their smallest deviation and with time the other way round.

    Args:
        latents: z, (B, T, C)
        noise: w, (B, T, C)
        times: (B, T)
    """
    times = times[..., None]
    return (1 - times) * latents + times * noise, noise - latents


def euler(velocity: Callable[[Tensor, float], Tensor], noise: Tensor, num_steps: int) -> Tensor:
    """Follow ``velocity(x, t)`` from ``noise`` at t = 1 to t = 0 in equal steps; each costs one evaluation.

    One step is the generator of a distilled model: w - v(w, 1).

    Raises:
        ConfigError: ``num_steps`` is less than 1.
    """
    if num_steps < 1:
        raise ConfigError(f"num_steps must be at least 1, got {num_steps}")
    x = noise
    for step in range(num_steps):
        x = x - velocity(x, 1 - step / num_steps) / num_steps
    return x
