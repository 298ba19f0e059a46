import pytest
import torch

from speechnar.decode.flow import euler, mix
from speechnar.errors import ConfigError

MEAN, STD = 1.5, 0.6


def gaussian_velocity(x, t):
    """Return the velocity E[w - z | x] where z is Gaussian: -x / (1 - t) - t / (1 - t) * score (x), t < 1."""
    variance = ((1 - t) * STD) ** 2 + t**2
    # The same by the normal equations, which hold at t = 1 too.
    return -MEAN + (t - (1 - t) * STD**2) / variance * (x - (1 - t) * MEAN)


def test_a_path_leads_from_the_data_to_the_noise():
    latents, noise = torch.randn(2, 2, 5, 3, generator=torch.Generator().manual_seed(0))
    times = torch.tensor([0.0, 0.25, 0.5, 0.75, 1.0]).expand(2, -1)
    noisy, velocity = mix(latents, noise, times)
    torch.testing.assert_close(noisy[:, 0], latents[:, 0])
    torch.testing.assert_close(noisy[:, 4], noise[:, 4])
    torch.testing.assert_close(noisy - times[..., None] * velocity, latents)


@pytest.mark.parametrize("num_steps", [1, 3, 16])
def test_a_constant_velocity_is_followed_exactly(num_steps):
    noise = torch.randn(2, 4, 3, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(euler(lambda x, _: torch.full_like(x, 2.0), noise, num_steps), noise - 2.0)


def test_growth_is_compounded_once_a_step():
    noise = torch.ones(1, 1, 1, dtype=torch.float64)
    assert float(euler(lambda x, _: x, noise, 4)) == (1 - 1 / 4) ** 4


def test_steps_are_even_and_begin_at_the_noise():
    times = []
    euler(lambda x, t: times.append(t) or x, torch.zeros(1, 1, 1), 4)
    assert times == [1.0, 0.75, 0.5, 0.25]


@pytest.mark.parametrize("t", [0.2, 0.5, 0.9])
def test_the_velocity_is_known_from_the_score(t):
    variance = ((1 - t) * STD) ** 2 + t**2
    x = torch.linspace(-3, 3, 13, dtype=torch.float64)
    score = -(x - (1 - t) * MEAN) / variance
    torch.testing.assert_close(gaussian_velocity(x, t), -x / (1 - t) - t / (1 - t) * score)


@pytest.mark.parametrize("t", [0.2, 0.5, 1.0])
def test_least_squares_on_paths_find_the_velocity(t):
    generator = torch.Generator().manual_seed(0)
    z, w = torch.randn(2, 1, 200_000, 1, dtype=torch.float64, generator=generator)
    noisy, target = mix(MEAN + STD * z, w, torch.full((1, 200_000), t, dtype=torch.float64))
    inputs = torch.cat([noisy[0], torch.ones_like(noisy[0])], 1)
    line = torch.linalg.lstsq(inputs, target[0]).solution
    for x in noisy[0, :9, 0].tolist():
        assert float(line[0] * x + line[1]) == pytest.approx(gaussian_velocity(x, t), abs=0.02)


def test_one_step_of_a_gaussian_flow_is_its_mean_and_many_its_samples():
    noise = torch.randn(1, 100, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(euler(gaussian_velocity, noise, 1), torch.full_like(noise, MEAN))
    torch.testing.assert_close(euler(gaussian_velocity, noise, 4000), MEAN + STD * noise, atol=2e-3, rtol=0)


def test_no_steps_are_refused():
    with pytest.raises(ConfigError, match="num_steps must be at least 1, got 0"):
        euler(lambda x, _: x, torch.zeros(1, 1, 1), 0)
