"""Which way of translating the options of a model choose, and which options go together."""

import pytest

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
