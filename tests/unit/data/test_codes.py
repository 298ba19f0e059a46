from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from speechnar.cli.main import main
from speechnar.data.codes import CodeDataset, read_codes
from speechnar.data.kaldi import Utterance, write_kaldi_dir
from speechnar.errors import ConfigError, DataError
from speechnar.models.base import save_model
from speechnar.models.sound.encodec import Encodec, EncodecConfig
from speechnar.train.extract_codes import extract_codes
from speechnar.train.loop import TrainConfig
from speechnar.train.run import RunConfig, run_training
from tests.unit.models.generators import WORDS

SECONDS = {"a": 0.5, "b": 0.3, "c": 0.6, "d": 0.5, "e": 0.5}


def write_data(folder: Path, seconds: dict[str, float] = SECONDS) -> Path:
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    utterances = []
    for utt_id, length in seconds.items():
        path = folder / f"{utt_id}.wav"
        soundfile.write(path, 0.1 * rng.standard_normal(round(16000 * length)), 16000)
        word = "dog" if utt_id < "c" else "cat"
        utterances.append(Utterance(utt_id=utt_id, wav_path=path, text=word, spk_id=utt_id, duration_s=length))
    write_kaldi_dir(folder, utterances)
    return folder


def make_codec(folder: Path) -> Encodec:
    torch.manual_seed(0)
    codec = Encodec(EncodecConfig.debug()).eval()
    save_model(folder, codec, WORDS)
    return codec


@pytest.fixture
def data(tmp_path) -> Path:
    folder = write_data(tmp_path / "data")
    make_codec(tmp_path / "codec")
    assert main(["data", "codes", str(tmp_path / "codec"), str(folder)]) == 0
    return folder


def test_codes_in_files_are_those_of_the_codec(tmp_path, data):
    codec, codes = make_codec(tmp_path / "codec"), read_codes(data)
    assert {utt_id: rows.shape[1] for utt_id, rows in codes.items()} == {"a": 25, "b": 15, "c": 30, "d": 25, "e": 25}
    wav = torch.from_numpy(soundfile.read(data / "b.wav", dtype="float32")[0])
    assert torch.equal(codes["b"].long(), codec.encode(wav[None])[0][0])
    assert extract_codes(codec, data, min_seconds=0.52) == 4 * 26 + 30
    padded = torch.nn.functional.pad(wav, (0, 8320 - len(wav)))
    assert torch.equal(read_codes(data)["b"].long(), codec.encode(padded[None])[0][0])


def test_batches_hold_codes_and_words(data):
    codes = read_codes(data)
    dataset = CodeDataset([data], WORDS, batch_frames=60, training=False, seed=0)
    assert len(dataset) == 5
    batches = list(dataset.batches(0))
    assert [batch.utt_ids for batch in batches] == [("a", "b"), ("c", "d"), ("e",)]
    second = batches[1]
    assert second.codes.shape == (2, 4, 30)
    assert second.code_lens.tolist() == [30, 25]
    assert torch.equal(second.codes[1, :, :25], codes["d"].long())
    assert second.tokens.tolist() == [[3], [3]]
    assert batches[0].tokens.tolist() == [[2], [2]]
    assert second.to("cpu").utt_ids == ("c", "d")


def test_an_epoch_is_shuffled_and_can_be_left(data):
    dataset = CodeDataset([data], WORDS, batch_frames=30, training=True, seed=0)
    orders = [[utt_id for batch in dataset.batches(epoch) for utt_id in batch.utt_ids] for epoch in range(4)]
    assert all(sorted(order) == sorted(SECONDS) for order in orders)
    assert len({tuple(order) for order in orders}) > 1
    batches = dataset.batches(2)
    next(batches)
    next(batches)
    state = dataset.state_dict()
    other = CodeDataset([data], WORDS, batch_frames=30, training=True, seed=0)
    other.load_state_dict(state)
    assert [batch.utt_ids[0] for batch in other.batches(2)] == orders[2][2:]
    assert [batch.utt_ids[0] for batch in other.batches(3)] == orders[3]


def test_what_is_missing_is_named(tmp_path, data, capsys):
    with pytest.raises(DataError, match=r"codes\.safetensors: cannot be read"):
        read_codes(tmp_path)
    other = write_data(tmp_path / "other", {"x": 0.2})
    (other / "codes.safetensors").write_bytes((data / "codes.safetensors").read_bytes())
    with pytest.raises(DataError, match="has no codes of utterance 'x'; extract them again"):
        CodeDataset([other], WORDS, batch_frames=9, training=False, seed=0)
    with pytest.raises(DataError, match="'a' is repeated"):
        CodeDataset([data, data], WORDS, batch_frames=9, training=False, seed=0)
    assert main(["data", "codes", str(tmp_path / "nothing"), str(data)]) == 2
    assert "speechnar: " in capsys.readouterr().err


def run_config(tmp_path: Path, data: Path, **changes) -> RunConfig:
    WORDS.save(tmp_path / "tokenizer")
    values = {
        "model": {"kind": "magnet", "window_frames": 15, "reach": 2, **magnet_sizes()},
        "data": {"kind": "codes", "train": data, "dev": data, "batch_frames": 60},
        "train": TrainConfig(max_steps=3, validate_every=3, device="cpu").model_dump(),
        "tokenizer": tmp_path / "tokenizer",
        "init_from": tmp_path / "codec",
        **changes,
    }
    return RunConfig.model_validate(values)


def magnet_sizes() -> dict[str, object]:
    network = {"model_dim": 16, "num_layers": 1, "num_heads": 2, "ff_dim": 16}
    return {"codec": EncodecConfig.debug().model_dump(), "network": network}


@pytest.mark.parametrize("kind", ["magnet", "enat", "music_ar"])
def test_generators_learn_from_files(tmp_path, data, kind):
    sizes = magnet_sizes() | {"window_frames": 15}
    result = run_training(run_config(tmp_path, data, model={"kind": kind, **sizes}), tmp_path / "exp")
    assert (result.step, result.nan_steps) == (3, 0)
    assert set(result.history[-1]["parts"]) == {f"nll_{k}" for k in range(4)}
    assert (tmp_path / "exp" / "model" / "model.safetensors").exists()


def test_other_models_do_not_learn_from_codes(tmp_path, data):
    model = EncodecConfig.debug().model_dump()
    with pytest.raises(ConfigError, match="data must be of kind speech for a model of kind encodec"):
        run_training(run_config(tmp_path, data, model=model, init_from=None), tmp_path / "exp")
    with pytest.raises(ConfigError, match="init_from must name a model folder of kind encodec: Magnet does not train"):
        run_training(run_config(tmp_path, data, init_from=None), tmp_path / "exp2")
