"""Which way of translating the options of a model choose, and which options go together."""

import pytest
import torch

from speechnar.errors import ConfigError
from speechnar.models.base import LoadedModel, save_model
from speechnar.models.mt.fretna import Fretna, FretnaConfig
from speechnar.models.mt.fretna_ctc import FretnaCtc, FretnaCtcConfig
from speechnar.models.mt.reta import Reta, RetaConfig
from speechnar.models.mt.wait_k import WaitK, WaitKConfig
from speechnar.mt.systems import (
    Editing,
    OnePass,
    Retranslating,
    System,
    TranslationOptions,
    Verifying,
    Waiting,
    build_system,
)
from tests.unit.models.texts import TOKENIZER

MODELS = {
    "reta": Reta(RetaConfig.debug(), TOKENIZER).eval(),
    "fretna": Fretna(FretnaConfig.debug(), TOKENIZER).eval(),
    "fretna_ctc": FretnaCtc(FretnaCtcConfig.debug(), TOKENIZER).eval(),
    "wait_k": WaitK(WaitKConfig.debug(), TOKENIZER).eval(),
}


def system(kind: str, **options) -> System:
    model = MODELS[kind]
    return build_system(LoadedModel(model, TOKENIZER, model.config, kind), TranslationOptions(**options))


@pytest.mark.parametrize(
    ("kind", "options", "expected"),
    [
        ("reta", {}, Retranslating),
        ("reta", {"beam_size": 2, "token_reward": 0.5, "bias": 0.3}, Retranslating),
        ("reta", {"verify": False}, Retranslating),
        ("reta", {"verify": True, "bias": 0.3}, Verifying),
        ("fretna", {"max_iterations": 2, "delete_cost": 1.0, "margin": 1, "forget": 2}, Editing),
        ("fretna_ctc", {"bias": 1.0}, OnePass),
        ("wait_k", {"delay": 3}, Waiting),
    ],
)
def test_the_kind_and_the_options_choose(kind, options, expected):
    translating = system(kind, **options)()
    assert type(translating) is expected
    translating.update([5, 6, 7], is_final=False)
    assert translating.evaluations > 0


def test_each_source_starts_anew():
    start = system("fretna_ctc")
    first, second = start(), start()
    first.update([5, 6], is_final=False)
    assert (first.evaluations, second.evaluations) == (1, 0)


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        ("fretna", {"bias": 0.1}, "a Fretna has no bias; leave that out"),
        ("fretna_ctc", {"verify": True, "delay": 2}, "a FretnaCtc has no delay, verify"),
        ("wait_k", {"beam_size": 2}, "a WaitK has no beam_size"),
        ("reta", {"verify": True, "beam_size": 4}, "drafts are read greedily"),
        ("reta", {"verify": True, "token_reward": 0.5}, "drafts are read greedily"),
        ("fretna", {"margin": 1}, "margin is where costs of edits do not apply"),
    ],
)
def test_options_in_vain_are_refused(kind, options, message):
    with pytest.raises(ConfigError, match=message):
        system(kind, **options)


def test_a_drafter_is_of_its_kind_and_read(tmp_path):
    save_model(tmp_path / "drafter", MODELS["fretna_ctc"], TOKENIZER)
    save_model(tmp_path / "editor", MODELS["fretna"], TOKENIZER)
    assert isinstance(system("reta", draft=tmp_path / "drafter")(), Verifying)
    with pytest.raises(ConfigError, match="a drafter must be of kind fretna_ctc"):
        system("reta", draft=tmp_path / "editor")
    with pytest.raises(ConfigError, match="a draft is verified; leave out draft, or verify=False"):
        system("reta", draft=tmp_path / "drafter", verify=False)


@pytest.mark.parametrize("kind", ["fretna", "fretna_ctc"])
@torch.no_grad()
def test_an_update_encodes_what_is_new_alone(kind):
    torch.manual_seed(0)
    model_cls, config_cls = {"fretna": (Fretna, FretnaConfig), "fretna_ctc": (FretnaCtc, FretnaCtcConfig)}[kind]
    config = config_cls.debug().model_copy(update={"causal_encoder": True})
    model = model_cls.from_config(config, TOKENIZER).eval()
    growing = build_system(LoadedModel(model, TOKENIZER, config, kind), TranslationOptions())()
    naive = build_system(LoadedModel(model, TOKENIZER, config, kind), TranslationOptions())()
    naive._source = None
    encoded = []
    model.encoder.layers.layers[0].register_forward_hook(lambda _, args, __: encoded.append(args[0].size(1)))
    eos = TOKENIZER.id_of("<eos>")
    # A word changes, the end is taken back, and nothing is new.
    sources = [[5], [5, 6, 7], [5, 6, 8, 9], [5, 6], [5, 6], [5, 6, 10, eos]]
    for source in sources:
        is_final = source[-1] == eos
        assert growing.update(source, is_final=is_final) == naive.update(source, is_final=is_final)
    assert encoded[::2][:2] == [1, 2]
    assert sum(encoded) == sum(map(len, sources)) + 1 + 2 + 2 + 2
    seen = model.new_source()
    for source in sources:
        tokens, lens = torch.tensor([source]), torch.tensor([len(source)])
        found, projected = seen.read(tokens)
        expected = model.encoder(model.embed, tokens, lens).enc
        torch.testing.assert_close(found.enc, expected, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(projected.keys_values, model.decoder.project(expected), atol=1e-5, rtol=1e-4)


def test_an_encoder_that_sees_the_future_starts_over():
    assert FretnaCtc.from_config(FretnaCtcConfig.debug(), TOKENIZER).new_source() is None
    assert Fretna.from_config(FretnaConfig.debug(), TOKENIZER).new_source() is None
