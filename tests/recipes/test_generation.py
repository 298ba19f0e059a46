"""The recipes for music and sound: data on small trees of the corpora's shape, one of them through all stages."""

import csv
import json
import shutil
from pathlib import Path

import pytest
import soundfile
import yaml

from speechnar.config import load_config
from speechnar.data.kaldi import read_kaldi_dir
from speechnar.models.base import load_model
from speechnar.models.judges.sound_classifier import SoundClassifierConfig
from speechnar.models.sound.encodec import EncodecConfig, EncodecGanConfig
from speechnar.models.sound.magnet import MagnetConfig
from speechnar.text.tokenizer import load_tokenizer
from speechnar.train.run import RunConfig
from tests.recipes.test_recipes import RECIPES, fsdd, run, run_well, write_tone

__all__ = ["fsdd"]  # a fixture
PIECES = {"one-long": 155.0, "two-short": 20.0}


def write_pieces(root: Path) -> Path:
    for name, seconds in PIECES.items():
        write_tone(root / "usr/share/asterisk/moh" / f"{name}.wav", seconds, pitch_hz=200 + len(name))
    return root


def test_opsound_holds_out_stretches(tmp_path):
    corpus, data = write_pieces(tmp_path / "package"), tmp_path / "data"
    out = run_well("opsound/music", "--corpus", str(corpus), "--data", str(data), "--stage", "1", "--stop_stage", "2")
    assert "train: 6 stretches" in out
    sets = {name: read_kaldi_dir(data / name) for name in ("train", "dev", "test")}
    spans = {name: sorted((u.text, u.start_s, u.end_s) for u in utterances) for name, utterances in sets.items()}
    assert spans["train"] == [
        ("long", 0.0, 30.0),
        ("long", 41.0, 60.0),
        ("long", 60.0, 90.0),
        ("long", 101.0, 120.0),
        ("long", 120.0, 150.0),
        ("short", 0.0, 20.0),
    ]
    assert spans["dev"] == [("long", 30.5, 40.5)]
    assert spans["test"] == [("long", 90.5, 100.5)]
    assert load_tokenizer(data / "tokenizer").pieces[2:] == ("long", "short")
    finished = run("opsound/music", "--corpus", str(tmp_path / "data/tokenizer"), "--data", str(data), "--stage", "1")
    assert "holds no .g722 or .wav" in finished.stderr


def tiny(path: Path, model: dict[str, object], **data: object) -> Path:
    train = {"max_steps": 2, "validate_every": 2, "optim": {"schedule": {"kind": "inv_sqrt", "warmup_steps": 10}}}
    path.write_text(yaml.safe_dump({"model": model, "data": data, "train": train}))
    return path


@pytest.mark.slow
def test_digits_go_through_all_stages(fsdd, tmp_path):
    """With the smallest codec and models; tones instead of digits, of few recordings."""
    codec = EncodecConfig.debug().model_dump()
    network = {"model_dim": 16, "num_layers": 1, "num_heads": 2, "ff_dim": 16}
    sampling = {"steps": [2, 1, 1, 1], "temperature": 1.0, "guidance": [2.0, 1.0]}
    codes = {"kind": "codes", "batch_frames": 400}
    generator = {"codec": codec, "network": network, "window_frames": 48}
    first = tiny(tmp_path / "encodec.yaml", codec, batch_seconds=4, num_buckets=2, speed_factors=[1.0])
    gan = EncodecGanConfig.debug().model_dump()
    second = tiny(tmp_path / "encodec_gan.yaml", gan, batch_seconds=4, num_buckets=2, speed_factors=[1.0])
    magnet = tiny(tmp_path / "magnet.yaml", {"kind": "magnet", "sampling": sampling, **generator}, **codes)
    enat = tiny(tmp_path / "enat.yaml", {"kind": "enat", "sampling": sampling, **generator}, **codes)
    twin = tiny(tmp_path / "music_ar.yaml", {"kind": "music_ar", **generator}, **codes)
    exp = tmp_path / "exp" / "magnet"
    arguments = ["--corpus", str(fsdd), "--data", str(tmp_path / "data"), "--downloads", str(tmp_path / "downloads")]
    arguments += ["--exp", str(exp), "--codec_configs", f"{first} {second}", "--config", str(magnet)]
    judge = tiny(tmp_path / "judge.yaml", SoundClassifierConfig.debug().model_dump(), batch_seconds=4, num_buckets=2)
    arguments += ["--others", f"{enat} {twin}", "--judge_config", str(judge)]
    run_well("fsdd/sound", *arguments, "--stop_stage", "1")
    data = tmp_path / "data" / "fsdd"
    for name, count in (("train", 20), ("dev", 5), ("test", 2)):  # enough for a test
        for file in ("wav.scp", "text", "utt2spk", "utt2dur", "utt2lang"):
            lines = (data / name / file).read_text().splitlines(keepends=True)
            (data / name / file).write_text("".join(lines[:: len(lines) // count][:count]))
        (data / name / "spk2utt").unlink()
    run_well("fsdd/sound", *arguments, "--stage", "2")
    assert json.loads((data / "statistics.json").read_text())
    assert load_model(exp / "codec").config == EncodecConfig.debug()
    for system in ("coded", "magnet", "enat", "music_ar", "rescored", "hybrid"):
        for utterance in read_kaldi_dir(data / "test"):
            made = soundfile.info(exp / "sound" / system / f"{utterance.utt_id}.wav")
            assert made.duration == pytest.approx(utterance.duration_s, abs=0.01)
    assert soundfile.info(exp / "sound/long" / f"{utterance.utt_id}.wav").duration == pytest.approx(3, abs=0.01)
    scores = json.loads((exp / "sound/sound.json").read_text())["systems"]
    systems = {"recorded", "coded", "magnet", "enat", "music_ar", "rescored", "hybrid", "long"}
    assert set(scores) == systems
    assert {name for name in systems if scores[name]["joined"]} == {"hybrid", "long"}
    assert {name for name in systems if scores[name]["repeated"]} == systems - {"recorded"}
    assert load_model(exp / "export").config.kind == "magnet"
    assert load_model(tmp_path / "exp" / "enat" / "model").config.kind == "enat"


def write_esc50(root: Path) -> Path:
    (root / "meta").mkdir(parents=True)
    rows = []
    for fold in range(1, 6):
        for source in range(8):
            name = f"{fold}-{1000 * fold + source}-A-{source % 2}.wav"
            write_tone(root / "audio" / name, 0.2, rate=44100)
            rows.append(
                [name, fold, source % 2, ["dog", "chirping_birds"][source % 2], True, 1000 * fold + source, "A"]
            )
    with (root / "meta/esc50.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["filename", "fold", "target", "category", "esc10", "src_file", "take"], *rows])
    return root


def test_esc50_data(tmp_path):
    corpus, data = write_esc50(tmp_path / "ESC-50-master"), tmp_path / "data"
    options = ["--corpus", str(corpus), "--data", str(data), "--stage", "1", "--stop_stage", "2"]
    assert "train: 30 clips of 2 classes" in run_well("esc50/audio", *options)
    test = read_kaldi_dir(data / "test")
    assert len(test) == 8
    assert all(utterance.utt_id.startswith("5-") for utterance in test)
    assert [utterance.spk_id for utterance in read_kaldi_dir(data / "dev")] == ["4000", "4004"]
    assert load_tokenizer(data / "tokenizer").pieces[2:] == ("chirping_birds", "dog")
    (corpus / "audio/1-1000-A-0.wav").unlink()
    assert "names 1-1000-A-0.wav, which is not in" in run("esc50/audio", *options).stderr


def test_audiocaps_data(tmp_path):
    corpus, data = tmp_path / "corpus", tmp_path / "data"
    for name in ("aa_10", "-b_0", "cc"):
        write_tone(corpus / "audio" / f"{name}.wav", 0.5, rate=32000)
    captions = {
        "train": [(1, "aa", 10, "A dog barks, loudly!"), (2, "aa", 10, "Barking"), (3, "gone", 5, "Nothing")],
        "val": [(4, "-b", 0, "Rain falls"), (5, "-b", 0, "It is raining")],
        "test": [(6, "cc", 30, "A cat")],
    }
    for name, rows in captions.items():
        with (corpus / f"{name}.csv").open("w", newline="") as file:
            csv.writer(file).writerows([["audiocap_id", "youtube_id", "start_time", "caption"], *rows])
    options = ["--corpus", str(corpus), "--data", str(data), "--stage", "1", "--stop_stage", "2"]
    out = run_well("audiocaps/audio", *options)
    assert "train: 2 captions, 1 without recording" in out
    assert [u.text for u in read_kaldi_dir(data / "train")] == ["a dog barks loudly", "barking"]
    assert [u.text for u in read_kaldi_dir(data / "dev")] == ["rain falls"]
    assert set(load_tokenizer(data / "tokenizer").pieces[2:]) == {"a", "dog", "barks", "loudly", "barking"}
    assert "give --corpus" in run("audiocaps/audio", "--data", str(data)).stderr
    assert "videos of others" in run("audiocaps/audio", "--stage", "0").stderr
    shutil.move(corpus / "val.csv", corpus / "dev.csv")
    assert "val.csv is missing" in run("audiocaps/audio", *options).stderr


def test_audiocaps_settings_are_those_published():
    magnet = load_config(RECIPES / "audiocaps/audio/conf/magnet.yaml", RunConfig)
    assert magnet.model == MagnetConfig.published_sound()
    codec = load_config(RECIPES / "audiocaps/audio/conf/encodec_gan.yaml", RunConfig).model
    assert codec.encodec == EncodecConfig.published_sound() == magnet.model.codec
    assert codec.adversary == EncodecGanConfig.published().adversary


@pytest.mark.parametrize(
    ("recipe", "codec"),
    [
        ("opsound/music", {"encoder": "mel", "decoder": "oscillators", "codebook_size": 128}),
        ("fsdd/sound", {"encoder": "mel", "decoder": "oscillators"}),
        ("esc50/audio", {}),
    ],
)
@pytest.mark.parametrize("kind", ["magnet", "enat", "music_ar"])
def test_systems_that_are_compared_have_the_same_codec_and_window(recipe, codec, kind):
    config = load_config(RECIPES / recipe / "conf" / f"{kind}.yaml", RunConfig)
    assert config.model.kind == kind
    other = load_config(RECIPES / recipe / "conf/magnet.yaml", RunConfig)
    assert config.model.codec == other.model.codec == EncodecConfig(**codec)
    assert config.model.window_frames == other.model.window_frames
    assert config.model.learned_frames == other.model.learned_frames
    assert (config.train, config.data) == (other.train, other.data)
    twin = load_config(RECIPES / recipe / "conf/music_ar.yaml", RunConfig)
    assert twin.model.network == other.model.network
