"""From a pretrained encoder to a model trained on its stored states, by the commands that a recipe runs."""

import json
import shutil

import pytest
import torch
import yaml

from speechnar.cli.main import main
from speechnar.data.features import INDEX_FILE, StoredFeatures
from speechnar.models.asr.wav2vec2 import Wav2Vec2, Wav2Vec2ModelConfig
from speechnar.models.asr.whisper import Whisper, WhisperModelConfig
from speechnar.models.base import load_model, save_model
from speechnar.nn.wav2vec2 import Wav2Vec2Config
from speechnar.nn.whisper import WhisperConfig
from speechnar.text.byte_pairs import BYTE_LETTERS, BytePairTokenizer
from speechnar.text.tokenizer import CharTokenizer, load_tokenizer
from tests.unit.data.corpus import make_data_dir

SIZES = {"num_mels": 80, "model_dim": 32, "num_layers": 2, "num_heads": 2}
SPECIALS = ("<|endoftext|>", "<|startoftranscript|>", "<|en|>", "<|transcribe|>", "<|notimestamps|>")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a Whisper, data, a tokenizer cut to them, and a configuration."""
    root = tmp_path_factory.mktemp("stored")
    pairs = [("o", "n"), ("Ġ", "on"), ("Ġon", "e"), ("Ġ", "t")]
    whole = BytePairTokenizer(
        [*BYTE_LETTERS.values(), *("".join(pair) for pair in pairs), *SPECIALS, "<blank>", "<unk>"], pairs
    )
    torch.manual_seed(0)
    config = WhisperModelConfig(
        encoder=WhisperConfig(**SIZES), decoder_layers=2, decoder_heads=2, num_tokens=whole.vocab_size - 2
    )
    save_model(root / "whisper", Whisper(config), whole)
    make_data_dir(root / "train")
    make_data_dir(root / "dev", count=4)
    arguments = ["data", "tokenizer", str(root / "train"), str(root / "tokenizer"), "--cut", str(root / "whisper")]
    assert main([*arguments, "--min-count", "20", "--languages", "eng", "fra"]) == 0
    blocks = {"kind": "conformer", "model_dim": 24, "num_layers": 2, "num_heads": 2, "ff_dim": 48, "kernel_size": 5}
    values = {
        "model": {
            "kind": "owsm_ctc",
            "frontend": {"kind": "log_mel", "n_fft": 400, "drop_last": True},
            "normalize": "peak",
            "encoder": {
                "kind": "whisper",
                "whisper": {**SIZES, "frozen_layers": 2},
                "blocks": {**blocks, "positions": "rotary", "subsampling": 2},
            },
            "interctc_layers": [1],
            "interctc_asr_only": [True],
            "prompt": {"model_dim": 16, "num_layers": 1, "num_heads": 1, "ff_dim": 32},
        },
        "data": {
            "train": str(root / "train"),
            "dev": str(root / "dev"),
            "batch_seconds": 8,
            "speed_factors": [1.0],
            "gain_db": [0, 0],
            "stored_features": True,
        },
        "train": {"max_steps": 4, "validate_every": 4, "save_every": 2, "device": "cpu", "optim": {"lr": 1e-3}},
        "tokenizer": str(root / "tokenizer"),
        "init_from": str(root / "whisper"),
    }
    (root / "config.yaml").write_text(yaml.safe_dump(values))
    return root


def extract(folder, *dirs):
    paths = (name if name.startswith("--") else str(folder / name) for name in dirs)
    return main(["data", "features", str(folder / "config.yaml"), *paths])


def test_the_tokenizer_holds_what_the_texts_need(folder):
    tokenizer = load_tokenizer(folder / "tokenizer")
    assert isinstance(tokenizer, BytePairTokenizer)
    assert "Ġone" in tokenizer.pieces  # in every text
    assert "Ġon" not in tokenizer.pieces  # but a step to it
    assert list(tokenizer.language_ids()) == ["eng", "fra"]


def test_training_reads_what_was_stored_and_goes_on(folder, tmp_path, capsys):
    assert extract(folder, "train", "dev") == 0
    stored = StoredFeatures([folder / "train"])
    assert stored.read("spk0-tone00").shape == (15, 32)  # 0.3 s
    exp = tmp_path / "exp"
    assert main(["train", str(folder / "config.yaml"), "--exp", str(exp)]) == 0
    weights = load_model(exp / "model").model.encoder.whisper.state_dict()
    torch.testing.assert_close(weights, load_model(folder / "whisper").model.encoder.state_dict())
    assert main(["train", str(folder / "config.yaml"), "train.max_steps=6", "--exp", str(exp)]) == 0
    entries = [json.loads(line) for line in (exp / "log.jsonl").read_text().splitlines()]
    assert [entry["step"] for entry in entries if entry["kind"] == "valid"] == [4, 6]
    # What it learned from stored states it applies to audio.
    assert main(["decode", str(exp / "model"), str(folder / "dev"), str(tmp_path / "dev.hyp")]) == 0
    assert len((tmp_path / "dev.hyp").read_text().splitlines()) == 4


def test_features_of_other_weights_are_refused(folder, tmp_path, capsys):
    assert extract(folder, "train", "dev") == 0
    index = json.loads((folder / "dev" / INDEX_FILE).read_text())
    shutil.copytree(folder / "dev", tmp_path / "dev")
    (tmp_path / "dev" / INDEX_FILE).write_text(json.dumps({**index, "fingerprint": "other"}))
    arguments = ["train", str(folder / "config.yaml"), f"data.dev={tmp_path / 'dev'}", "--exp", str(tmp_path / "exp")]
    assert main(arguments) != 0
    assert "made by other weights than the model's" in capsys.readouterr().err
    (tmp_path / "dev" / INDEX_FILE).unlink()
    assert main(arguments) != 0
    assert "speechnar data features makes them" in capsys.readouterr().err


def test_features_that_are_there_are_kept_where_only_missing_ones_are_wanted(folder):
    assert extract(folder, "dev") == 0
    index = folder / "dev" / INDEX_FILE
    made = index.stat().st_mtime_ns
    assert extract(folder, "--missing", "dev") == 0
    assert index.stat().st_mtime_ns == made
    whole = json.loads(index.read_text())
    first = dict(list(whole["utterances"].items())[:1])
    for other in ({**whole, "fingerprint": "other"}, {**whole, "utterances": first}):
        index.write_text(json.dumps(other))
        assert extract(folder, "--missing", "dev") == 0
        assert json.loads(index.read_text()) == whole


def test_what_cannot_be_stored_is_refused(folder, tmp_path, capsys):
    arguments = ["data", "features", str(folder / "config.yaml"), str(folder / "dev")]
    assert main([*arguments, "--set", "model.encoder.whisper.frozen_layers=0"]) != 0
    assert "nothing of this model is frozen" in capsys.readouterr().err
    overrides = ["data.speed_factors=[0.9, 1.0]", "--exp", str(tmp_path)]
    assert main(["train", str(folder / "config.yaml"), *overrides]) != 0
    assert "which speed_factors would vary" in capsys.readouterr().err
    cut = ["data", "tokenizer", str(folder / "train"), str(tmp_path / "tokenizer"), "--cut"]
    assert main([*cut, str(folder / "train")]) != 0
    assert "needs tokens.txt" in capsys.readouterr().err


@pytest.mark.parametrize("frozen_layers", [0, 3])
def test_states_of_wav2vec_are_stored_by_the_same_commands(folder, tmp_path, frozen_layers):
    """With no layer frozen, what the convolutions extract of the samples: they are never trained."""
    sizes = Wav2Vec2Config.debug()
    torch.manual_seed(0)
    source = Wav2Vec2(Wav2Vec2ModelConfig(encoder=sizes))
    save_model(tmp_path / "wav2vec2", source, CharTokenizer(("<blank>", "<unk>")))
    for name in ("train", "dev"):
        shutil.copytree(folder / name, tmp_path / name, ignore=shutil.ignore_patterns("features.*"))
    values = yaml.safe_load((folder / "config.yaml").read_text())
    encoder = {**sizes.model_dump(), "frozen_layers": frozen_layers}
    blocks = {**values["model"]["encoder"]["blocks"], "subsampling": 1}
    values["model"] |= {
        "frontend": {"kind": "waveform"},
        "normalize": "utterance",
        "encoder": {"kind": "wav2vec2", "wav2vec2": encoder, "blocks": blocks},
    }
    values["data"] |= {"train": str(tmp_path / "train"), "dev": str(tmp_path / "dev")}
    values |= {"init_from": str(tmp_path / "wav2vec2")}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(values))
    assert extract(tmp_path, "train", "dev") == 0
    stored = StoredFeatures([tmp_path / "train"]).read("spk0-tone00")
    assert stored.shape == (14, 32 if frozen_layers else 16)  # 0.3 s, every frame of which is whole
    exp = tmp_path / "exp"
    assert main(["train", str(tmp_path / "config.yaml"), "--exp", str(exp)]) == 0
    weights, before = load_model(exp / "model").model.encoder.wav2vec2.state_dict(), source.encoder.state_dict()
    kept = {name for name in before if torch.equal(before[name], weights[name])}
    assert kept == {name for name in before if frozen_layers or name.startswith("convolutions.")}
    assert main(["decode", str(exp / "model"), str(tmp_path / "dev"), str(tmp_path / "dev.hyp")]) == 0
    assert len((tmp_path / "dev.hyp").read_text().splitlines()) == 4
