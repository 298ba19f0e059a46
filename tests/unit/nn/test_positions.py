"""Sinusoids and rotations by their formulas, in double precision, number by number."""

import math

import pytest
import torch

from speechnar.nn.positions import distance_sinusoids, rotary_angles, rotary_angles_at, rotate, sinusoids


def test_sines_at_even_channels_and_cosines_at_odd_ones():
    """Vaswani et al. 2017, section 3.5."""
    positions, dim = [0.0, 1.0, -3.0, 2.5, 1000.0], 6
    found = sinusoids(torch.tensor(positions), dim)
    assert found.dtype == torch.float32
    for row, position in zip(found.tolist(), positions, strict=True):
        wanted = []
        for i in range(dim // 2):
            angle = position / 10000 ** (2 * i / dim)
            wanted += [math.sin(angle), math.cos(angle)]
        assert row == pytest.approx(wanted, abs=1e-4)
    assert torch.equal(sinusoids(torch.tensor([0, 1, -3]), dim), found[:3])


def test_distances_fall_from_the_oldest_key_to_the_newest():
    """Two queries behind three cached keys: key 4 is one behind query 3, which is three behind key 0."""
    table = distance_sinusoids(2, 5, 8, torch.device("cpu"))
    assert table.shape == (1, 6, 8)
    torch.testing.assert_close(table[0], sinusoids(torch.tensor([4, 3, 2, 1, 0, -1]), 8))


def test_angles_by_position_and_channel():
    found = rotary_angles(3, 2, 6, torch.device("cpu"))
    for row, position in zip(found.tolist(), (3, 4), strict=True):
        rates = [position / 10000 ** (2 * i / 6) for i in range(3)]
        assert row == pytest.approx([*rates, *rates], rel=1e-6)
    anywhere = rotary_angles_at(torch.tensor([[0.5, -2.0]]), 4)
    assert anywhere[0].tolist() == [pytest.approx([0.5, 0.005] * 2), pytest.approx([-2, -0.02] * 2)]


def test_pairs_turn_as_complex_numbers():
    """Su et al. 2021, section 3.2.2: channel i and i + D / 2 are the parts of a number times exp(i angle)."""
    torch.manual_seed(0)
    x, angles = torch.randn(2, 3, 4, 6), rotary_angles(5, 4, 6, torch.device("cpu"))
    turned = torch.complex(x[..., :3], x[..., 3:]) * torch.polar(torch.ones(4, 3), angles[:, :3])
    torch.testing.assert_close(rotate(x, angles), torch.cat([turned.real, turned.imag], dim=-1))


def test_products_know_distances_only():
    torch.manual_seed(0)
    q, k = torch.randn(2, 1, 1, 1, 8)

    def product(query: int, key: int) -> float:
        at = [rotary_angles(place, 1, 8, torch.device("cpu")) for place in (query, key)]
        return float((rotate(q, at[0]) * rotate(k, at[1])).sum())

    assert product(7, 4) == pytest.approx(product(103, 100), abs=1e-4)
    assert abs(product(7, 4) - product(4, 7)) > 1e-2
    assert product(9, 9) == pytest.approx(float((q * k).sum()), abs=1e-5)


def test_half_precision_stays_half():
    x = torch.ones(1, 1, 2, 4, dtype=torch.bfloat16)
    assert rotate(x, rotary_angles(0, 2, 4, torch.device("cpu"))).dtype == torch.bfloat16
