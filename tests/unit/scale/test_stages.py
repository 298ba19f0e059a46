"""Stages of recipes on the engine write what they write without it, and go on where they were killed."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file

from speechnar.asr.transcriber import Transcriber
from speechnar.cli.main import main
from speechnar.data.codes import CODES_FILE
from speechnar.data.features import INDEX_FILE, StoredFeatures
from speechnar.data.kaldi import read_kaldi_dir, write_kaldi_dir
from speechnar.errors import ConfigError, DataError
from speechnar.evaluation.asr import decode_dir
from speechnar.evaluation.sound import JOINS_FILE
from speechnar.models.asr.wav2vec2 import Wav2Vec2, Wav2Vec2ModelConfig
from speechnar.models.base import save_model
from speechnar.models.sound.encodec import Encodec, EncodecConfig
from speechnar.nn.wav2vec2 import Wav2Vec2Config
from speechnar.scale import stages
from speechnar.scale.journal import FAILURES, JOURNAL
from speechnar.scale.stages import Coding, Decoding, run_stage
from speechnar.text.tokenizer import CharTokenizer
from tests.unit.data.corpus import make_data_dir
from tests.unit.models.generators import WORDS, make_generator
from tests.unit.tiny import save_tiny_model, save_tiny_tts


@pytest.fixture(scope="module")
def recogniser(tmp_path_factory):
    return save_tiny_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="module")
def codec(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "codec"
    torch.manual_seed(0)
    save_model(folder, Encodec(EncodecConfig.debug()), WORDS)
    return folder


def files_of(folder):
    """Return all files by their names, sounds and codes as bytes."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def decoding(recogniser, tmp_path, **changes):
    given = {"model": recogniser, "out": tmp_path / "hyp.parts", "hyp": tmp_path / "hyp", "device": "cpu", "threads": 1}
    return Decoding(**{**given, **changes})


def test_decoding_goes_on_where_it_was_killed(recogniser, tmp_path, monkeypatch):
    utterances = make_data_dir(tmp_path / "data", 6)
    utterances[2].wav_path.write_bytes(b"RIFF")
    real, calls = stages.decode_utterances, []

    def killed(*arguments, **options):
        calls.append(arguments)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(*arguments, **options)

    monkeypatch.setattr(stages, "decode_utterances", killed)
    stage = decoding(recogniser, tmp_path)
    with pytest.raises(KeyboardInterrupt):
        run_stage(stage, utterances, engine="local", unit_seconds=0.5)
    monkeypatch.undo()
    assert (stage.out / JOURNAL).is_file()
    with pytest.raises(ConfigError, match="language was 'auto', is 'eng'"):
        run_stage(decoding(recogniser, tmp_path, language="eng"), utterances, engine="local")
    report = run_stage(stage, utterances, engine="local", unit_seconds=0.5)
    assert 0 < report.done_now < report.done == 5
    assert report.failed == {"unreadable": 1}
    expected = Transcriber.load(recogniser, device="cpu", precision="fp32")
    decode_dir(expected, tmp_path / "data", tmp_path / "whole")
    assert (tmp_path / "hyp").read_text() == (tmp_path / "whole").read_text()
    texts = [(tmp_path / f"{name}.jsonl").read_text() for name in ("hyp", "whole")]
    rows, whole = ([json.loads(line) for line in text.splitlines()] for text in texts)
    assert [row["text"] for row in rows] == [row["text"] for row in whole]
    assert rows[2] == whole[2]  # with its error
    assert not stage.out.exists()


def test_a_model_that_was_trained_anew_is_another_request(recogniser, tmp_path, monkeypatch):
    utterances = make_data_dir(tmp_path / "data", 2)
    model = shutil.copytree(recogniser, tmp_path / "model")
    monkeypatch.setattr(stages, "decode_utterances", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        run_stage(decoding(model, tmp_path), utterances, engine="local")
    monkeypatch.undo()
    weights = model / "model.safetensors"
    weights.write_bytes(weights.read_bytes())
    with pytest.raises(ConfigError, match="weights was"):
        run_stage(decoding(model, tmp_path), utterances, engine="local")


def test_codes_are_those_without_an_engine(codec, tmp_path):
    make_data_dir(tmp_path / "data", 5)
    argv = ["data", "codes", str(codec), str(tmp_path / "data"), "--min-seconds", "0.3", "--threads", "1"]
    assert main(argv) == 0
    before = load_file(tmp_path / "data" / CODES_FILE)
    (tmp_path / "data" / CODES_FILE).unlink()
    assert main([*argv, "--engine", "local"]) == 0
    after = load_file(tmp_path / "data" / CODES_FILE)
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], before[name]) for name in before)
    assert not list(tmp_path.glob("data/*.parts"))


def test_without_all_utterances_there_are_no_codes(codec, tmp_path):
    utterances = make_data_dir(tmp_path / "data", 4)
    content = utterances[1].wav_path.read_bytes()
    utterances[1].wav_path.write_bytes(b"RIFF")
    stage = Coding(model=codec, out=tmp_path / "parts", data_dir=tmp_path / "data", device="cpu")
    with pytest.raises(DataError, match=r"1 of 4 utterances failed, first"):
        run_stage(stage, utterances, engine="local")
    failure = json.loads((tmp_path / "parts" / FAILURES).read_text())
    assert (failure["utt_id"], failure["kind"]) == (utterances[1].utt_id, "unreadable")
    assert not (tmp_path / "data" / CODES_FILE).exists()
    utterances[1].wav_path.write_bytes(content)
    assert run_stage(stage, utterances, engine="local").done_now == 1
    assert len(load_file(tmp_path / "data" / CODES_FILE)) == 4


def test_features_are_those_without_an_engine(tmp_path):
    sizes = Wav2Vec2Config.debug()
    tokenizer = CharTokenizer(("<blank>", "<unk>", "a", "b"))
    torch.manual_seed(0)
    save_model(tmp_path / "wav2vec2", Wav2Vec2(Wav2Vec2ModelConfig(encoder=sizes)), tokenizer)
    blocks = {"kind": "conformer", "model_dim": 24, "num_layers": 2, "num_heads": 2, "ff_dim": 48, "kernel_size": 5}
    encoder = {"kind": "wav2vec2", "wav2vec2": {**sizes.model_dump(), "frozen_layers": 2}, "blocks": {
        **blocks, "positions": "rotary", "subsampling": 1}}  # fmt: skip
    model = {"kind": "owsm_ctc", "frontend": {"kind": "waveform"}, "normalize": "utterance", "encoder": encoder,
             "interctc_layers": [1], "interctc_asr_only": [True], "prompt": None}  # fmt: skip
    data = {"train": "unset", "dev": "unset", "stored_features": True, "speed_factors": [1.0],
            "gain_db": [0, 0]}  # fmt: skip
    values = {"model": model, "data": data, "train": {"max_steps": 1}, "tokenizer": str(tmp_path / "wav2vec2"),
              "init_from": str(tmp_path / "wav2vec2")}  # fmt: skip
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(values))
    make_data_dir(tmp_path / "data", 4)
    argv = ["data", "features", str(tmp_path / "config.yaml"), str(tmp_path / "data"), "--batch-seconds", "8"]
    assert main(argv) == 0
    names = [utterance.utt_id for utterance in read_kaldi_dir(tmp_path / "data")]
    before = StoredFeatures([tmp_path / "data"])
    states = {name: before.read(name) for name in names}
    (tmp_path / "data" / INDEX_FILE).unlink()
    assert main([*argv, "--missing", "--engine", "local"]) == 0
    after = StoredFeatures([tmp_path / "data"])
    assert after.fingerprint == before.fingerprint
    for name in names:
        np.testing.assert_array_equal(after.read(name), states[name])
    made = (tmp_path / "data" / INDEX_FILE).stat().st_mtime_ns
    assert main([*argv, "--missing", "--engine", "local"]) == 0
    assert (tmp_path / "data" / INDEX_FILE).stat().st_mtime_ns == made


@pytest.mark.parametrize("system", ["synthesized", "vocoded", "coded"])
def test_speech_is_that_without_an_engine(system, tmp_path):
    model = save_tiny_tts(tmp_path / "tts")
    utterances = make_data_dir(tmp_path / "data", 3)
    argv = ["tts", "decode", str(model), str(tmp_path / "data")]
    options = ["--system", system, "--steps", "1", "--seed", "3", "-d", "cpu"]
    assert main([*argv, str(tmp_path / "whole"), *options]) == 0
    assert main([*argv, str(tmp_path / "units"), *options, "--engine", "local"]) == 0
    assert len(files_of(tmp_path / "whole")) == len(utterances)
    assert files_of(tmp_path / "units") == files_of(tmp_path / "whole")


@pytest.mark.parametrize("system", ["generated", "coded"])
def test_sound_is_that_without_an_engine(system, tmp_path):
    save_model(tmp_path / "magnet", make_generator("magnet"), WORDS)
    utterances = make_data_dir(tmp_path / "data", 3)
    told = [replace(utterance, text="dog barks") for utterance in utterances]
    write_kaldi_dir(tmp_path / "data", told)
    argv = ["sound", "decode", str(tmp_path / "magnet"), str(tmp_path / "data")]
    options = ["--system", system, "--steps", "4", "--seed", "3", "-d", "cpu"]
    assert main([*argv, str(tmp_path / "whole"), *options]) == 0
    assert main([*argv, str(tmp_path / "units"), *options, "--engine", "local"]) == 0
    whole, units = files_of(tmp_path / "whole"), files_of(tmp_path / "units")
    assert units.keys() == whole.keys()
    assert all(units[name] == whole[name] for name in whole if name != CODES_FILE)
    assert JOINS_FILE in whole
    before, after = (load_file(tmp_path / name / CODES_FILE) for name in ("whole", "units"))
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], before[name]) for name in before)


def test_options_of_ray_need_it(codec, tmp_path, capsys):
    make_data_dir(tmp_path / "data", 1)
    assert main(["data", "codes", str(codec), str(tmp_path / "data"), "--workers", "2"]) == 2
    assert "of --engine ray" in capsys.readouterr().err
