"""Means over utterances of batches of unequal size."""

import math

import pytest
import torch
from accelerate import Accelerator
from torch import nn

from speechnar.errors import DataError
from speechnar.models.base import LossOutput
from speechnar.train.validation import add_sums, means_of, score, validate, weighted_sums
from tests.unit.train.toys import ToyBatch, ToyData, ToyModel


def output(total: float, weight: float, **parts: float) -> LossOutput:
    return LossOutput(
        torch.tensor(total, requires_grad=True),
        {name: torch.tensor(value) for name, value in parts.items()},
        torch.tensor(weight),
    )


def test_utterances_count_the_same_in_batches_of_any_size():
    sums: dict[str, torch.Tensor] = {}
    add_sums(sums, weighted_sums(output(1.0, 3.0, ctc=10.0)))
    add_sums(sums, weighted_sums(output(5.0, 1.0, ctc=30.0, other=4.0)))
    assert not any(value.requires_grad for value in sums.values())
    means = means_of({name: float(value) for name, value in sums.items()})
    assert means == {"loss": 2.0, "ctc": 15.0, "other": 1.0}


def test_nothing_has_no_mean():
    assert math.isnan(means_of({})["loss"])
    means = means_of({"loss": 0.0, "ctc": 0.0, "weight": 0.0})
    assert set(means) == {"loss", "ctc"}
    assert all(math.isnan(mean) for mean in means.values())


def test_sums_are_float32_whatever_the_loss_is():
    half = LossOutput(torch.tensor(1.001, dtype=torch.bfloat16), {}, torch.tensor(2, dtype=torch.int64))
    sums = weighted_sums(half)
    assert {value.dtype for value in sums.values()} == {torch.float32}


@pytest.mark.parametrize("training", [True, False])
def test_held_out_data_is_evaluated_as_one_batch(training):
    torch.manual_seed(0)
    model = ToyModel(dropout=0.5).train(training)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    batches = list(ToyData(5).batches(0))
    assert len({len(batch.x) for batch in batches}) > 1
    found = validate(model, ToyData(5), Accelerator(cpu=True))
    assert model.training is training
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())  # of the norm, too
    everything = ToyBatch(torch.cat([batch.x for batch in batches]), torch.cat([batch.y for batch in batches]))
    with torch.no_grad():
        wanted = float(model.eval().loss(everything).total)
    assert found == pytest.approx({"loss": wanted, "mse": wanted}, rel=1e-5)


def test_no_batch_is_an_error():
    with pytest.raises(DataError, match="the held-out data has no batch"):
        validate(ToyModel(), ToyData(0), Accelerator(cpu=True))


def test_scores_are_found_without_gradients_and_the_mode_comes_back():
    model = ToyModel().train()

    def evaluate(given: nn.Module) -> dict[str, float]:
        assert given is model
        return {"training": float(given.training), "grad": float(torch.is_grad_enabled())}

    assert score(model, Accelerator(cpu=True), evaluate) == {"training": 0.0, "grad": 0.0}
    assert model.training

    def fail(given: nn.Module) -> dict[str, float]:
        raise DataError("spoiled")

    with pytest.raises(DataError, match="spoiled"):
        score(model, Accelerator(cpu=True), fail)
    assert model.training
