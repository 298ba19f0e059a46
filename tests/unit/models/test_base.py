import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import speechnar.models
from speechnar.errors import CheckpointError, ConfigError, ModelNotFoundError
from speechnar.models.base import (
    AsrModel,
    LossOutput,
    ModelConfig,
    ModelEntry,
    Trainable,
    load_model,
    load_state,
    model_entry,
    save_model,
    tied_names,
)
from speechnar.text.tokenizer import CharTokenizer

PIECES = ("<blank>", "<unk>", "▁", "a", "b")


class TinyConfig(ModelConfig):
    kind: str = "tiny"
    model_dim: int = 4
    num_layers: int = 2
    scale: float = 1.0


class Tiny(Trainable):
    def __init__(self, config, tokenizer):
        super().__init__()
        self.config = config
        self.embed = nn.Embedding(tokenizer.vocab_size, config.model_dim)
        self.layers = nn.ModuleList(nn.Linear(config.model_dim, config.model_dim) for _ in range(config.num_layers))
        self.head = nn.Linear(config.model_dim, tokenizer.vocab_size, bias=False)
        self.head.weight = self.embed.weight
        self.register_buffer("mean", torch.full((config.model_dim,), 1e5 + 0.25))
        self.register_buffer("count", torch.tensor(7))

    @classmethod
    def from_config(cls, config, tokenizer):
        return cls(config, tokenizer)

    def forward(self, x):
        x = self.embed(x)
        for layer in self.layers:
            x = layer(x)
        return self.head(x - self.mean)

    def loss(self, batch):
        return LossOutput(self(batch).mean())


@pytest.fixture(autouse=True)
def _tiny_is_known(monkeypatch):
    monkeypatch.setattr(speechnar.models, "MODELS", {"tiny": ModelEntry(__name__, "TinyConfig", "Tiny")}, raising=False)


@pytest.fixture
def folder(tmp_path):
    torch.manual_seed(0)
    tokenizer = CharTokenizer(PIECES)
    save_model(tmp_path / "tiny-model", Tiny(TinyConfig(), tokenizer), tokenizer, card="# Tiny\n")
    return tmp_path / "tiny-model"


def rewrite(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_saved_model_comes_back_equal_with_its_weights_tied(folder):
    torch.manual_seed(0)
    original = Tiny(TinyConfig(), CharTokenizer(PIECES))
    loaded = load_model(folder)
    assert loaded.name == "tiny-model"
    assert loaded.config == TinyConfig()
    assert loaded.tokenizer.pieces == PIECES
    assert not loaded.model.training
    for name, value in original.state_dict().items():
        assert torch.equal(loaded.model.state_dict()[name], value)
    assert loaded.model.head.weight is loaded.model.embed.weight
    assert "head.weight" not in load_file(folder / "model.safetensors")
    assert (folder / "README.md").read_text() == "# Tiny\n"
    assert not list(folder.glob("*.tmp"))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_halves_parameters_only_and_loads_as_float32(folder, dtype):
    full = load_model(folder).model
    save_model(folder, full, CharTokenizer(PIECES), dtype=dtype)
    stored = load_file(folder / "model.safetensors")
    assert stored["embed.weight"].dtype == dtype
    half = load_model(folder).model
    assert half.embed.weight.dtype == torch.float32
    assert torch.equal(half.embed.weight, full.embed.weight.to(dtype).float())
    assert torch.equal(half.mean, full.mean)  # 100000.25 would overflow float16
    assert half.count.item() == 7
    assert half.head.weight is half.embed.weight


def test_protocols_tell_models_apart(folder):
    model = load_model(folder).model
    assert isinstance(model, Trainable)
    assert not isinstance(model, AsrModel)
    assert not isinstance(nn.Linear(1, 1), Trainable)


def test_absent_folders_are_not_found(folder, tmp_path):
    with pytest.raises(ModelNotFoundError, match="model folder holds"):
        load_model(tmp_path / "absent")
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelNotFoundError, match=r"no model\.safetensors"):
        load_model(folder)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("not json", "must be JSON"),
        ("[" * 100_000, "must be JSON"),
        ('{"schema_version": 1}', "must hold exactly"),
        ("[]", "must hold exactly"),
        (" " * (1 << 20) + "{}", "at most"),
        (b"\xff\xfe\x00".decode("latin-1"), "must be JSON"),
    ],
)
def test_hostile_documents_are_refused(folder, content, message):
    (folder / "config.json").write_text(content)
    with pytest.raises(CheckpointError, match=message):
        load_model(folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"schema_version": 2}, "upgrade speechnar"),
        ({"kind": "other", "config": {"kind": "other"}}, "kind must be one of tiny"),
        ({"kind": ["tiny"], "config": {"kind": ["tiny"]}}, "kind must be one of tiny"),
        ({"kind": "tiny", "config": {"kind": "other"}}, "whose kind is tiny"),
        ({"config": {"kind": "tiny", "_target_": "os.system"}}, "unknown key"),
        ({"config": {"kind": "tiny", "modeldim": 4}}, "did you mean model_dim"),
        ({"config": {"kind": "tiny", "model_dim": "wide"}}, "model_dim"),
        ({"config": {"kind": "tiny", "model_dim": 10**12}}, "at most 1"),
        ({"config": {"kind": "tiny", "scale": float("inf")}}, "finite"),
        ({"config": {"kind": "tiny", "model_dim": 10**8}}, "at most 1"),
        ({"config": {"kind": "tiny", "num_layers": 10**6}}, "larger model than"),
        ({"config": {"kind": "tiny", "model_dim": -3}}, "no model can be built"),
        ({"config": {"kind": "tiny", "num_layers": 3}}, r"2 missing: layers\.2\.bias"),
        ({"config": {"kind": "tiny", "num_layers": 1}}, r"2 unknown: layers\.1\.bias"),
        ({"config": {"kind": "tiny", "model_dim": 3}}, r"instead of \(3,\)"),
    ],
)
def test_hostile_configurations_are_refused(folder, changes, message):
    rewrite(folder, **changes)
    with pytest.raises(CheckpointError, match=message):
        load_model(folder)


def test_torn_weights_are_refused(folder):
    path = folder / "model.safetensors"
    content = path.read_bytes()
    for torn in (content[:-5], content[:20], b"", b"\xff" * 64):
        path.write_bytes(torn)
        with pytest.raises(CheckpointError, match="unreadable weights"):
            load_model(folder)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_weights_that_are_not_finite_are_refused(folder, value, dtype):
    path = folder / "model.safetensors"
    state = load_file(path)
    state["embed.weight"] = state["embed.weight"].to(dtype)
    state["embed.weight"][1, 2] = value
    save_file(state, path)
    with pytest.raises(CheckpointError, match=r"weights must be finite, embed\.weight is not"):
        load_model(folder)


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.complex64])
def test_weights_of_types_that_nothing_is_stored_in_are_refused(folder, dtype):
    path = folder / "model.safetensors"
    state = load_file(path)
    state["embed.weight"] = state["embed.weight"].to(dtype)
    save_file(state, path)
    with pytest.raises(CheckpointError, match=r"embed\.weight must be of floats of 16 to 64 bits"):
        load_model(folder)


def test_weights_of_another_type_are_refused(folder):
    state = load_file(folder / "model.safetensors")
    state["count"] = torch.tensor(7.5)
    save_file(state, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match="of another type: count"):
        load_model(folder)


def test_parameter_budget_ends_with_the_load(folder):
    rewrite(folder, config={"kind": "tiny", "num_layers": 10**8})
    with pytest.raises(CheckpointError):
        load_model(folder)
    nn.Linear(100, 100)


def test_state_with_every_tied_name_loads_too():
    model = Tiny(TinyConfig(), CharTokenizer(PIECES))
    state = {name: value.clone() for name, value in model.state_dict().items()}
    load_state(model, state, source="test")
    assert tied_names(model.state_dict()) == {"head.weight": "embed.weight"}


def test_unknown_kind_names_the_known_ones():
    assert model_entry("tiny").model_cls is Tiny
    with pytest.raises(ConfigError, match="one of tiny"):
        model_entry("huge")
