import pytest
import torch
from pydantic import ValidationError
from torch import nn

from speechnar.errors import ConfigError
from speechnar.nn.whisper import WhisperConfig, WhisperEncoder
from speechnar.train.optim import (
    CosineSchedule,
    InverseSqrtSchedule,
    OptimConfig,
    PiecewiseLinearSchedule,
    build_ema,
    build_optimizer,
    set_lr,
)


def test_inverse_sqrt_rises_to_the_peak_and_halves_at_four_times_the_warmup():
    config = OptimConfig(lr=2e-3, schedule=InverseSqrtSchedule(warmup_steps=100))
    assert [config.lr_at(step) for step in (1, 50, 100, 400)] == pytest.approx([2e-5, 1e-3, 2e-3, 1e-3])


def test_piecewise_linear_is_the_published_owsm_ctc_schedule():
    config = OptimConfig(lr=2e-4, schedule=PiecewiseLinearSchedule())
    expected = {15_000: 2.5e-5, 30_000: 5e-5, 45_000: 1.25e-4, 60_000: 2e-4, 240_000: 1e-4}
    assert [config.lr_at(step) for step in expected] == pytest.approx(list(expected.values()))


def test_cosine_falls_to_its_floor_and_stays():
    config = OptimConfig(lr=1.0, schedule=CosineSchedule(warmup_steps=10, total_steps=110, floor=0.1))
    assert [config.lr_at(step) for step in (5, 10, 60, 110, 500)] == pytest.approx([0.5, 1.0, 0.55, 0.1, 0.1])


@pytest.mark.parametrize(
    "schedule",
    [
        {"kind": "piecewise_linear", "knots": [[10, 1.0], [5, 1.0]]},
        {"kind": "piecewise_linear", "knots": [[10, 0.5]]},
        {"kind": "piecewise_linear", "knots": []},
        {"kind": "cosine", "warmup_steps": 10, "total_steps": 10},
        {"kind": "linear"},
    ],
)
def test_impossible_schedules_are_refused(schedule):
    with pytest.raises(ValidationError):
        OptimConfig.model_validate({"schedule": schedule})


def test_only_matrices_are_decayed():
    model = nn.Module()
    model.proj = nn.Linear(2, 3)
    model.norm = nn.LayerNorm(3)
    model.pos_bias_u = nn.Parameter(torch.ones(2, 2))
    model.frozen = nn.Parameter(torch.ones(2, 2), requires_grad=False)
    optimizer = build_optimizer(model, OptimConfig(lr=0.5, weight_decay=0.1))
    decayed, plain = optimizer.param_groups
    assert [id(p) for p in decayed["params"]] == [id(model.proj.weight)]
    assert {id(p) for p in plain["params"]} == {
        id(p) for p in (model.proj.bias, model.norm.weight, model.norm.bias, model.pos_bias_u)
    }
    before = {name: p.clone() for name, p in model.named_parameters()}
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    set_lr(optimizer, 0.5)
    optimizer.step()
    torch.testing.assert_close(model.proj.weight, before["proj.weight"] * (1 - 0.5 * 0.1))
    assert torch.equal(model.norm.weight, before["norm.weight"])


def test_deeper_layers_learn_more_slowly():
    model = WhisperEncoder(WhisperConfig(num_mels=4, model_dim=8, num_layers=3, num_heads=2, frozen_layers=1))
    optimizer = build_optimizer(model, OptimConfig(lr=0.5, layer_decay=0.5))
    set_lr(optimizer, 0.4)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    rates = {names[id(p)]: group["lr"] for group in optimizer.param_groups for p in group["params"]}
    assert {name.rsplit(".", 2)[0]: rate for name, rate in rates.items() if name.endswith("ff.1.weight")} == {
        "layers.1.ff": 0.1,
        "layers.2.ff": 0.2,
    }
    assert rates["norm.weight"] == 0.4
    assert not any(name.startswith(("conv", "layers.0")) for name in rates)  # frozen
    state = optimizer.state_dict()
    again = build_optimizer(model, OptimConfig(lr=0.5, layer_decay=0.5))
    again.load_state_dict(state)
    set_lr(again, 0.2)
    assert [group["lr"] for group in again.param_groups] == [group["lr"] / 2 for group in optimizer.param_groups]


def test_nothing_to_train_is_an_error():
    with pytest.raises(ConfigError, match="requires a gradient"):
        build_optimizer(nn.Linear(2, 2).requires_grad_(False), OptimConfig())


def test_ema_follows_its_closed_form():
    model = nn.Linear(1, 1, bias=False)
    ema = build_ema(model, decay=0.5)
    values = [3.0, 1.0, -2.0, 4.0, 8.0, 0.5, 7.0, 2.0, 9.0, 1.0, 6.0]
    for value in values:
        nn.init.constant_(model.weight, value)
        ema.update_parameters(model)
    expected = values[0]
    for count, value in enumerate(values[1:], start=1):
        decay = min(0.5, (1 + count) / (10 + count))
        expected = decay * expected + (1 - decay) * value
    assert float(ema.module.weight) == pytest.approx(expected, rel=1e-6)
    assert not ema.module.weight.requires_grad
    assert not ema.module.training
