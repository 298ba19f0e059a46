"""The table of all models."""

import json
import resource
from pathlib import Path

import pytest
from torch import nn

from speechnar.errors import CheckpointError, ConfigError
from speechnar.models import MODELS
from speechnar.models.base import AsrModel, ModelConfig, MtModel, Trainable, config_of, load_model, save_model
from speechnar.text.tokenizer import CharTokenizer
from speechnar.train.run import RunConfig, build_model

TOKENIZER = CharTokenizer(
    (
        "<blank>",
        "<unk>",
        "<na>",
        "<sos>",
        "<eos>",
        "<sop>",
        "<mask>",
        "<ph>",
        "<nolang>",
        "<eng>",
        "<deu>",
        "<asr>",
        "<st_deu>",
        "▁",
        "a",
        "b",
    )
)
FITTED = {"mel_pca", "monophones"}
"""Kinds whose parameters are estimated in closed form (`fit_codec`, `align_durations`)."""
UNTRAINED = FITTED | {"wav2vec2", "whisper"}
"""And those from which others only begin."""
DATA_KINDS = {"speech", "codes", "pairs"}


@pytest.mark.parametrize("kind", MODELS)
def test_every_kind_is_where_the_table_says(kind):
    entry = MODELS[kind]
    assert issubclass(entry.config_cls, ModelConfig)
    assert entry.config_cls.model_fields["kind"].default == kind
    assert entry.config_cls.__module__ == entry.model_cls.__module__ == entry.module
    assert callable(entry.model_cls.from_config)


def test_the_table_is_sorted():
    assert list(MODELS) == sorted(MODELS)


def test_a_model_is_imported_with_its_kind_alone(interpreter):
    code = (
        "from speechnar.models.base import model_entry; model_entry('reta').model_cls;"
        "print(*sorted(name for name in sys.modules if name.startswith('speechnar.models.')))"
    )
    loaded = set(interpreter.run(code).stdout.decode().split())
    assert "speechnar.models.mt.reta" in loaded
    assert not loaded & {entry.module for kind, entry in MODELS.items() if kind != "reta"}


@pytest.fixture(scope="module", params=[kind for kind in MODELS if kind not in UNTRAINED])
def model(request):
    return build_model(MODELS[request.param].config_cls.debug(), TOKENIZER)


def test_every_model_that_learns_says_what_it_learns_from(model):
    assert model.learns_from
    assert set(model.learns_from) <= DATA_KINDS
    assert type(model).loss is not Trainable.loss
    assert isinstance(model.sample_rate, int) if "speech" in model.learns_from else isinstance(model, MtModel)
    assert not isinstance(model, AsrModel) or type(model).recognize is not AsrModel.recognize
    assert not isinstance(model, MtModel) or type(model).translate is not MtModel.translate


def test_every_part_that_comes_from_elsewhere_can_come_from_there(model):
    names = model.state_dict().keys()
    for kind, prefix in model.warm_starts.items():
        assert issubclass(MODELS[kind].model_cls, nn.Module)
        assert prefix.endswith(".")
    for part in model.pretrained:
        assert any(name.startswith(part) for name in names), part
        assert any(part.startswith(prefix) for prefix in model.warm_starts.values()), part
        frozen = [p for name, p in model.named_parameters() if name.startswith(part)]
        assert not frozen or part == "tts.ardit." or not any(p.requires_grad for p in frozen)


def test_every_turn_teaches_a_part_of_its_own(model):
    turns = model.turns()
    assert turns
    for turn in turns:
        assert callable(turn.loss)
        assert any(p.requires_grad for name, p in model.named_parameters() if name.startswith(turn.prefix)), turn.name
    prefixes = {turn.prefix for turn in turns}
    assert not any(a != b and a.startswith(b) for a in prefixes for b in prefixes)


def test_what_is_kept_is_a_model_of_the_table(model):
    kept = model.exported
    assert kept in list(model.modules())
    assert MODELS[config_of(kept).kind].model_cls is type(kept)


@pytest.mark.parametrize("kind", sorted(UNTRAINED))
def test_other_models_are_not_trained(kind):
    config_cls = MODELS[kind].config_cls
    with pytest.raises(ConfigError, match=f"a model of kind {kind} is not trained by gradients"):
        build_model(config_cls() if kind in FITTED else config_cls.debug(), TOKENIZER)


def test_the_kinds_of_data_are_those_of_a_run():
    kinds = {data.model_fields["kind"].default for data in RunConfig.model_fields["data"].annotation.__args__}
    assert kinds == DATA_KINDS


SIZE = 10**6


@pytest.mark.parametrize(
    ("kind", "path", "value"),
    [
        ("owsm_ctc", "frontend.n_fft", SIZE),
        ("owsm_ctc", "frontend.hop_length", SIZE),
        ("owsm_ctc", "frontend.sample_rate", SIZE),
        ("owsm_ctc", "frontend.num_mels", SIZE),
        ("cassnat", "head.max_distance", SIZE),
        ("encodec", "sample_rate", SIZE),
        ("encodec", "codebook_size", SIZE),
        ("encodec", "latent_dim", SIZE),
        ("encodec", "mel_sizes", [SIZE]),
        ("encodec", "ratios", [SIZE]),
        ("vocos", "frontend.num_mels", SIZE),
        ("mel_pca", "latent_dim", SIZE),
        ("mel_pca", "frames_per_latent", SIZE),
    ],
)
def test_sizes_that_would_exhaust_memory_are_refused_before_it_is_taken(kind, path, value, tmp_path, monkeypatch):
    model = MODELS[kind].model_cls.from_config(MODELS[kind].config_cls.debug(), TOKENIZER)
    save_model(tmp_path, model, TOKENIZER)
    document = json.loads((tmp_path / "config.json").read_text())
    *parents, last = ["config", *path.split(".")]
    place = document
    for name in parents:
        place = place[name]
    assert last in place
    place[last] = value
    (tmp_path / "config.json").write_text(json.dumps(document))
    before = resource.getrlimit(resource.RLIMIT_AS)
    in_use = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    try:
        resource.setrlimit(resource.RLIMIT_AS, (in_use + (1 << 29), before[1]))
        with pytest.raises(CheckpointError):
            load_model(tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)
