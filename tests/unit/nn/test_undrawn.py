import pytest
import torch
from torch import nn

from speechnar.models import MODELS
from speechnar.models.base import load_state
from speechnar.nn.undrawn import Undrawn
from tests.unit.models.test_models import FITTED, TOKENIZER


def test_no_random_number_is_drawn():
    torch.manual_seed(0)
    before = torch.random.get_rng_state()
    with Undrawn():
        layers = nn.Sequential(nn.Linear(3, 4), nn.Conv1d(2, 2, 3), nn.LSTM(2, 2), nn.Embedding(5, 2))
        for initialise in (nn.init.normal_, nn.init.uniform_, nn.init.trunc_normal_, nn.init.xavier_uniform_):
            weight = layers[0].weight
            assert initialise(weight) is weight
        nn.init.ones_(layers[0].bias)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert layers[0].bias.tolist() == [1.0] * 4
    for mean, std, low, high in ((0.0, 0.02, -0.04, 0.04), (1.0, 1.0, 2.0, 4.0)):  # by both ways of drawing it
        with Undrawn():
            drawn = nn.init.trunc_normal_(torch.full((3,), torch.nan), mean=mean, std=std, a=low, b=high)
        assert drawn.ge(low).all() and drawn.le(high).all()
    assert nn.Linear(3, 4).weight.std() > 0  # drawn again behind it


def test_what_has_a_generator_of_its_own_is_drawn():
    drawn = torch.empty(4).normal_(generator=torch.Generator().manual_seed(1))
    with Undrawn():
        assert torch.equal(torch.empty(4).normal_(generator=torch.Generator().manual_seed(1)), drawn)


@pytest.mark.parametrize("kind", [kind for kind in MODELS if kind not in FITTED])
def test_models_built_undrawn_are_the_same_once_they_have_their_weights(kind):
    entry = MODELS[kind]
    config = entry.config_cls.debug()
    drawn = entry.model_cls.from_config(config, TOKENIZER)
    with Undrawn():
        undrawn = entry.model_cls.from_config(config, TOKENIZER)
    load_state(undrawn, drawn.state_dict(), source="memory")
    expected, found = (
        dict(model.named_parameters()) | dict(model.named_buffers()) for model in (drawn, undrawn)
    )  # those that are not saved, too
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor), name
