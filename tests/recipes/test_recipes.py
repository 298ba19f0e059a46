"""Every recipe's run.sh on a small tree of its corpus' shape; those that can train on it go through all stages."""

import gzip
import json
import os
import shutil
import subprocess
import sys
import tarfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
import yaml

from speechnar.config import load_config
from speechnar.data.kaldi import read_kaldi_dir
from speechnar.data.parallel_text import read_sentences
from speechnar.models.base import load_model, save_model
from speechnar.models.judges.speaker_verifier import SpeakerVerifier, SpeakerVerifierConfig
from speechnar.models.tts.tts import Tts, TtsConfig
from speechnar.models.tts.vocos_coded import VocosCodedConfig
from speechnar.text.tokenizer import load_tokenizer
from speechnar.train.run import RunConfig

RECIPES = Path(__file__).parents[2] / "recipes"
RATE = 16000
TINY_MODEL = {
    "kind": "owsm_ctc",
    "encoder": {
        "kind": "conformer",
        "model_dim": 16,
        "num_layers": 2,
        "num_heads": 1,
        "ff_dim": 32,
        "kernel_size": 7,
        "subsampling": 4,
        "subsampling_channels": 4,
    },
    "interctc_layers": [1],
    "interctc_asr_only": [True],
    "prompt": None,
}


def run(recipe: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHON": sys.executable, "OMP_NUM_THREADS": "1"}
    command = ["bash", str(RECIPES / recipe / "run.sh"), *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def run_well(recipe: str, *arguments: str) -> str:
    finished = run(recipe, *arguments)
    assert finished.returncode == 0, finished.stderr[-3000:]
    return finished.stdout


def write_tone(path: Path, seconds: float, *, pitch_hz: float = 300.0, rate: int = RATE, **options: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    time_s = np.arange(round(seconds * rate)) / rate
    soundfile.write(path, 0.1 * np.sin(2 * np.pi * pitch_hz * time_s), rate, subtype="PCM_16", **options)


def tiny_config(path: Path, **model: object) -> Path:
    train = {"max_steps": 2, "validate_every": 2, "optim": {"schedule": {"kind": "inv_sqrt", "warmup_steps": 10}}}
    data = {"train": "unset", "dev": "unset", "batch_seconds": 10, "num_buckets": 2}
    config = {"model": {**TINY_MODEL, **model}, "data": data, "train": train, "tokenizer": "unset"}
    path.write_text(yaml.safe_dump(config))
    return path


@pytest.fixture(scope="module")
def an4(tmp_path_factory) -> Path:
    """Return an archive of AN4's tree: its numbers of utterances, tones instead of speech."""
    root = tmp_path_factory.mktemp("an4")
    write_tone(root / "tone.sph", 0.4, format="NIST")
    for name, folder, count in (("train", "an4_clstk", 948), ("test", "an4test_clstk", 130)):
        lines = []
        for i in range(count):
            speaker = f"spk{i % 10}"
            path = root / "an4/wav" / folder / speaker / f"an{i}-{speaker}-b.sph"
            path.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(root / "tone.sph", path)
            words = " ".join(["YES", "NO", "GO"][: 1 + i % 3])
            lines.append(f"{f'<s> {words} </s>' if name == 'train' else words} (an{i}-{speaker}-b)\n")
        (root / "an4/etc").mkdir(exist_ok=True)
        (root / f"an4/etc/an4_{name}.transcription").write_text("".join(lines))
    with tarfile.open(root / "an4_sphere.tar.gz", "w:gz", compresslevel=1) as tar:
        tar.add(root / "an4", "an4")
    return root / "an4_sphere.tar.gz"


@pytest.fixture(scope="module")
def fsdd(tmp_path_factory) -> Path:
    """Return an archive of the spoken digits' tree: 8 kHz tones, a pitch for each digit."""
    root = tmp_path_factory.mktemp("fsdd")
    recordings = root / "free-spoken-digit-dataset-1.0.10/recordings"
    for digit in range(10):
        write_tone(root / "tone.wav", 0.3, pitch_hz=300 + 100 * digit, rate=8000)
        for speaker in ("george", "jackson", "lucas", "nicolas", "theo", "yweweler"):
            for index in range(50):
                recordings.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(root / "tone.wav", recordings / f"{digit}_{speaker}_{index}.wav")
    with tarfile.open(root / "free-spoken-digit-dataset.tar.gz", "w:gz", compresslevel=1) as tar:
        tar.add(recordings.parent, recordings.parent.name)
    return root / "free-spoken-digit-dataset.tar.gz"


@pytest.fixture
def asterisk(tmp_path) -> Path:
    """Return a tree of the unpacked packages: noise for sound, and the odd entries the cleaning is for."""
    rng = np.random.default_rng(0)
    voices = {"en": "en_US_f_Allison", "es": "es_MX_f_Allison", "fr": "fr_CA_f_June", "it": "it_IT_m_Carlo"}
    for code, voice in {**voices, "ru": "ru_RU_f_IvrvoiceRU"}.items():
        entries = {f"vm-prompt{chr(97 + i // 26)}{chr(97 + i % 26)}": f"{code} word {chr(97 + i)}." for i in range(24)}
        entries |= {
            "press-two": "Press 2... [to go on]",
            "also-press-two": "press two to go",
            "beep": "a simple beep",
            "silence/1": "(1 second)",
            "no-audio": "Nobody spoke this",
            "lost": "sar? esattamente",
            "digits/1": "one",
        }
        sounds = tmp_path / f"{code}-g722/usr/share/asterisk/sounds" / voice
        for name in (*(name for name in entries if name != "no-audio"), "no-entry"):
            (sounds / name).parent.mkdir(parents=True, exist_ok=True)
            (sounds / f"{name}.g722").write_bytes(rng.bytes(6000))  # 8000 bytes a second
        text = "\ufeff; comment\n\n" + "".join(f"{name}: {spoken}\n" for name, spoken in entries.items())
        folder = tmp_path / code / f"usr/share/doc/asterisk-core-sounds-{code}"
        folder.mkdir(parents=True)
        (folder / f"core-sounds-{code}.txt.gz").write_bytes(gzip.compress(text.encode()))
    return tmp_path


@pytest.mark.parametrize(
    "recipe", [str(path.parent.relative_to(RECIPES)) for path in sorted(RECIPES.glob("*/*/run.sh"))]
)
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--stagee", "1"], "unknown option '--stagee'"),
        (["--stage"], "--stage needs a value"),
        (["--stage", "9"], "stages are 0 to 8"),
        (["train"], "unknown option 'train'"),
    ],
)
def test_wrong_options_are_named(recipe: str, arguments: Sequence[str], message: str):
    finished = run(recipe, *arguments)
    assert finished.returncode == 2
    assert message in finished.stderr
    assert finished.stdout == ""


def test_an4_split_is_espnets(an4, tmp_path):
    arguments = ["--corpus", str(an4), "--data", str(tmp_path / "data"), "--downloads", str(tmp_path / "downloads")]
    run_well("an4/asr", *arguments, "--stage", "1", "--stop_stage", "1")
    sets = {name: read_kaldi_dir(tmp_path / "data" / name) for name in ("train", "dev", "test")}
    assert {name: len(utterances) for name, utterances in sets.items()} == {"train": 848, "dev": 100, "test": 130}
    assert [u.utt_id for u in sets["dev"]][:2] == ["spk0-an0-b", "spk0-an10-b"]
    assert max(u.utt_id for u in sets["dev"]) < min(u.utt_id for u in sets["train"])
    assert {u.text for u in sets["test"]} == {"YES", "YES NO", "YES NO GO"}
    run_well("an4/asr", *arguments, "--stage", "1", "--stop_stage", "1", "--letters", "lower")
    lower = {name: read_kaldi_dir(tmp_path / "data" / name) for name in sets}
    assert {u.text for u in lower["test"]} == {"yes", "yes no", "yes no go"}
    assert {name: [u.utt_id for u in utterances] for name, utterances in lower.items()} == {
        name: [u.utt_id for u in utterances] for name, utterances in sets.items()
    }


@pytest.mark.slow
def test_fsdd_split_is_official(fsdd, tmp_path):
    data, downloads = tmp_path / "data", tmp_path / "downloads"
    arguments = ["--corpus", str(fsdd), "--data", str(data), "--downloads", str(downloads)]
    run_well("fsdd/asr", *arguments, "--stage", "1", "--stop_stage", "3")
    sets = {name: read_kaldi_dir(data / name) for name in ("train", "dev", "test")}
    assert {name: len(utterances) for name, utterances in sets.items()} == {"train": 2580, "dev": 120, "test": 300}
    indices = {name: {int(u.utt_id.rsplit("-", 1)[1]) for u in utterances} for name, utterances in sets.items()}
    assert indices == {"test": set(range(5)), "dev": {5, 6}, "train": set(range(7, 50))}
    by_id = {u.utt_id: u for u in sets["test"]}
    assert (by_id["theo-7-0"].text, by_id["theo-7-0"].spk_id, by_id["theo-7-0"].lang) == ("seven", "theo", "eng")
    statistics = json.loads((data / "statistics.json").read_text())[str(data / "train")]
    assert statistics["unknown_tokens"] == 0
    assert statistics["tokens"] == 2580  # one piece a digit
    (recording,) = downloads.rglob("9_theo_3.wav")
    recording.unlink()
    finished = run("fsdd/asr", *arguments, "--stage", "1", "--stop_stage", "1")
    assert finished.returncode == 1
    assert "has 3000 recordings, got 2999" in finished.stderr


@pytest.mark.slow
def test_fsdd_goes_through_all_stages(fsdd, tmp_path):
    config = tiny_config(tmp_path / "tiny.yaml")
    arguments = ["--corpus", str(fsdd), "--data", str(tmp_path / "data"), "--exp", str(tmp_path / "exp")]
    run_well("fsdd/asr", *arguments, "--downloads", str(tmp_path / "downloads"), "--config", str(config))
    assert len((tmp_path / "exp/test.asr.hyp").read_text().splitlines()) == 300
    assert json.loads((tmp_path / "exp/test.asr.json").read_text())
    assert "digits" in (tmp_path / "exp/export/README.md").read_text()


@pytest.mark.slow
def test_an4_goes_through_all_stages_and_reruns(an4, tmp_path):
    config = tiny_config(tmp_path / "tiny.yaml")
    arguments = ["--corpus", str(an4), "--data", str(tmp_path / "data"), "--exp", str(tmp_path / "exp")]
    arguments += [
        "--downloads",
        str(tmp_path),
        "--config",
        str(config),
        "--before",
        str(config),
        "--vocab_size",
        "14",
        "--overrides",
        "train.seed=3",
    ]
    out = run_well("an4/asr", *arguments)
    assert "wer" in out.lower()
    assert (tmp_path / "exp/test.score").read_text()
    assert len((tmp_path / "exp/test.hyp").read_text().splitlines()) == 130
    packed, trained = (tmp_path / "exp" / name / "model.safetensors" for name in ("export", "model"))
    assert packed.stat().st_size < trained.stat().st_size
    before = trained.stat().st_mtime_ns
    run_well("an4/asr", *arguments, "--stage", "1", "--stop_stage", "3")
    run_well("an4/asr", *arguments, "--stage", "5", "--stop_stage", "8")
    assert trained.stat().st_mtime_ns == before


@pytest.mark.slow
def test_an4_end_to_end_on_the_real_corpus(tmp_path):
    """All stages on CMU AN4 itself, with the recipe's own model and few updates: it must begin to learn."""
    corpora = os.environ.get("SPEECHNAR_CORPORA")
    archive = Path(corpora or "/nonexistent") / "an4_sphere.tar.gz"
    if not archive.is_file():
        pytest.skip("needs an4_sphere.tar.gz in the folder that SPEECHNAR_CORPORA names")
    exp = tmp_path / "exp"
    settings = "train.max_steps=40 train.validate_every=20 train.optim.schedule.warmup_steps=15"
    arguments = ["--corpus", str(archive), "--data", str(tmp_path / "data"), "--downloads", str(tmp_path)]
    run_well("an4/asr", *arguments, "--exp", str(exp), "--overrides", settings)
    log = [json.loads(line) for line in (exp / "short/log.jsonl").read_text().splitlines()]
    losses = [entry["loss"] for entry in log if entry["kind"] == "valid"]
    assert losses[-1] < losses[0]
    hypotheses = (exp / "test.hyp").read_text().splitlines()
    assert len(hypotheses) == 130
    assert hypotheses[0].split()[0] == "fcaw-an406-b"
    assert (exp / "export/README.md").read_text()


def test_asterisk_data_are_clean_counted_and_split_by_prompt(asterisk, tmp_path):
    pytest.importorskip("num2words", reason="the recipe spells numbers out")
    data = tmp_path / "data"
    run_well("asterisk/s2t", "--corpus", str(asterisk), "--data", str(data), "--stage", "1", "--stop_stage", "3")
    counts = json.loads((data / "counts.json").read_text())["languages"]["eng"]
    assert counts == {
        "audio without entry": 1,
        "damaged letters": 1,
        "describes a sound": 2,
        "entries": 31,
        "entry without audio": 1,
        "recordings": 31,
        "used": 27,
    }
    sets = {name: read_kaldi_dir(data / name) for name in ("train", "dev", "test")}
    by_id = {u.utt_id: u for utterances in sets.values() for u in utterances}
    assert len(by_id) == 5 * 27
    assert by_id["eng-allison-press-two"].text == "press two"
    assert by_id["spa-allison-press-two"].text == "press dos"
    assert by_id["fra-june-vm-promptaa"].translations == {"eng": "en word a"}
    assert by_id["fra-june-vm-promptaa"].duration_s == 0.75
    names = {
        name: {u.utt_id.split("-", 2)[2] for u in utterances} for name, utterances in sets.items()
    }  # a prompt is in one set in all languages
    assert not names["train"] & names["dev"] | names["train"] & names["test"] | names["dev"] & names["test"]
    written = tmp_path / "written"
    options = ["--data", str(written), "--text", "written", "--stage", "1", "--stop_stage", "1"]
    run_well("asterisk/s2t", "--corpus", str(asterisk), *options)
    texts = {name: {u.utt_id: u for u in read_kaldi_dir(written / name)} for name in sets}
    assert {name: [*found] for name, found in texts.items()} == {n: [u.utt_id for u in us] for n, us in sets.items()}
    by_id = {utt_id: u for found in texts.values() for utt_id, u in found.items()}
    assert by_id["spa-allison-press-two"].text == "Press dos"
    assert by_id["eng-allison-vm-promptaa"].text == "en word a."
    assert by_id["fra-june-press-two"].translations == {"eng": "Press two"}


@pytest.mark.slow
def test_texts_of_asterisk_are_pairs(asterisk, tmp_path):
    pytest.importorskip("num2words", reason="the recipe spells numbers out")
    data = tmp_path / "data"
    arguments = ["--corpus", str(asterisk), "--data", str(data), "--vocab_size", "40", "--stage", "1"]
    run_well("asterisk/mt", *arguments, "--source", "fra", "--target", "eng", "--stop_stage", "3")
    sentences = [s for name in ("train", "dev", "test") for s in read_sentences(data / "fra-eng" / name)]
    assert {s.lang for s in sentences} == {"fra"}
    texts = [(s.text, s.translations["eng"]) for s in sentences]
    assert len(set(texts)) == len(texts) and ("fr word a", "en word a") in texts
    assert json.loads((data / "fra-eng/statistics.json").read_text())
    run_well("asterisk/mt", *arguments, "--source", "fra", "--target", "ita", "--stop_stage", "1")  # by way of English
    texts = [(s.text, s.translations["ita"]) for s in read_sentences(data / "fra-ita/train")]
    assert ("fr word a", "it word a") in texts


@pytest.mark.slow
def test_asterisk_goes_through_all_stages(asterisk, tmp_path):
    pytest.importorskip("num2words", reason="the recipe spells numbers out")
    prompt = {"model_dim": 16, "num_layers": 1, "num_heads": 1, "ff_dim": 32}
    config = tiny_config(tmp_path / "tiny.yaml", prompt=prompt)
    arguments = ["--corpus", str(asterisk), "--data", str(tmp_path / "data"), "--exp", str(tmp_path / "exp")]
    out = run_well("asterisk/s2t", *arguments, "--config", str(config), "--before", "")
    for name in ("test.asr.score", "test.st_eng.score", "test.st_rus.score", "export/model.safetensors"):
        assert (tmp_path / "exp" / name).stat().st_size
    assert "bleu" in out.lower()


@pytest.mark.slow
def test_joint_data_are_those_of_the_recipes_and_of_sound_files_with_texts(asterisk, an4, fsdd, tmp_path):
    lj_speech = write_lj_speech(tmp_path)
    shutil.copyfile(lj_speech / "wavs/LJ001-0001.wav", lj_speech / "wavs/LJ002-0161.wav")
    with (lj_speech / "metadata.csv").open("a") as table:
        table.write("LJ002-0161|For evaluation.|For evaluation.\n")
    for speaker, text in (("19", "NORTHANGER ABBEY"), ("26", "IT’S"), ("27", "THE TEST")):
        path = tmp_path / f"librispeech/{speaker}/{speaker}-1-0000.wav"
        write_tone(path, 0.3)
        path.with_suffix(".lab").write_text(f"{text}\n")
    sentences = [f"Sentence {number}." for number in range(40)]
    for number, sentence in enumerate([*sentences, *sentences]):  # everything twice
        path = tmp_path / f"kathleen/data/a{number}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(tmp_path / "librispeech/19/19-1-0000.wav", path)
        path.with_suffix(".txt").write_text(sentence)
    corpora = {"asterisk": asterisk, "an4": an4, "fsdd": fsdd, "ljspeech": lj_speech, "kerstin": ""}
    corpora |= {"librispeech": tmp_path / "librispeech", "kathleen": tmp_path / "kathleen"}
    options = [word for part, corpus in corpora.items() for word in (f"--corpus_{part}", str(corpus))]
    data = tmp_path / "data"
    options += ["--data", str(data), "--downloads", str(tmp_path / "downloads"), "--stage", "1", "--stop_stage", "1"]
    run_well("joint/s2t", *options)
    texts = {
        f"{part}/{name}": {utt.text for utt in read_kaldi_dir(data / part / name)}
        for part, name in [("an4", "test"), ("asterisk", "train"), ("librispeech", "train"), ("librispeech", "test")]
    }
    assert texts["an4/test"] == {"yes", "yes no", "yes no go"}
    assert "en word a." in texts["asterisk/train"]
    assert (texts["librispeech/train"], texts["librispeech/test"]) == ({"northanger abbey", "it's"}, {"the test"})
    assert {utt.spk_id for utt in read_kaldi_dir(data / "librispeech/test")} == {"librispeech-27"}
    assert len(read_kaldi_dir(data / "fsdd/train")) == 2580
    clips = [utt for name in ("train", "dev", "test") for utt in read_kaldi_dir(data / "ljspeech" / name)]
    assert max(utt.utt_id for utt in clips) == "LJ002-0132"
    sets = {path.name: {utt.text for utt in read_kaldi_dir(path)} for path in (data / "kathleen").iterdir()}
    assert sum(map(len, sets.values())) == len(set.union(*sets.values())) == 40  # both takes are in the same set
    assert len(sets) > 1


def write_librispeech(corpus: Path) -> Path:
    """Write a small tree of LibriSpeech's shape, below a folder that is returned."""
    for i, part in enumerate(("train-clean-100", "dev-clean", "dev-other", "test-clean", "test-other")):
        for utt_id in (f"{i}19-198-0000", f"{i}19-198-0001", f"{i}26-495-0000"):
            speaker, chapter, _ = utt_id.split("-")
            folder = corpus / "LibriSpeech" / part / speaker / chapter
            write_tone(folder / f"{utt_id}.flac", 0.5)
            with (folder / f"{speaker}-{chapter}.trans.txt").open("a") as file:
                file.write(f"{utt_id} CHAPTER {'ONE TWO THREE' if utt_id.endswith('0') else 'MISSUS RACHEL'}\n")
    return corpus


def test_librispeech_data(tmp_path):
    corpus = write_librispeech(tmp_path / "corpus")
    arguments = ["--corpus", str(corpus), "--data", str(tmp_path / "data"), "--stage", "1", "--stop_stage", "3"]
    finished = run("librispeech/asr", *arguments)
    assert finished.returncode == 1
    assert "must hold 28539 utterances, got 3" in finished.stderr
    run_well("librispeech/asr", *arguments, "--check", "incomplete", "--vocab_size", "24")
    train = read_kaldi_dir(tmp_path / "data/train")
    assert [(u.utt_id, u.spk_id) for u in train] == [
        ("019-198-0000", "019-198"),
        ("019-198-0001", "019-198"),
        ("026-495-0000", "026-495"),
    ]
    assert train[1].text == "CHAPTER MISSUS RACHEL"


@pytest.fixture
def aishell1(tmp_path) -> Path:
    """Return the unpacked tree, with the archives of speakers still there; half the recordings have no transcript."""
    root = tmp_path / "tree/data_aishell"
    speakers = {"train": ["S0002", "S0003"], "dev": ["S0724"], "test": ["S0764"]}
    (root / "transcript").mkdir(parents=True)
    lines = ["BAC009S0002W0122 而 对 楼市 成交", "BAC009S0003W0122 抑制 作用 最 大", "BAC009S0009W0122 没有 录音"]
    lines += ["BAC009S0724W0122 广州市 房地产", "BAC009S0764W0122 甚至 出现"]
    (root / "transcript/aishell_transcript_v0.8.txt").write_text("".join(f"{line}\n" for line in lines))
    for name, speaker in ((name, speaker) for name, found in speakers.items() for speaker in found):
        for utt_id in (f"BAC009{speaker}W0122", f"BAC009{speaker}W0123"):
            write_tone(root / "wav" / name / speaker / f"{utt_id}.wav", 0.5)
        with tarfile.open(root / f"wav/{speaker}.tar.gz", "w:gz") as tar:
            tar.add(root / "wav" / name / speaker, f"{name}/{speaker}")
    return root


def test_aishell1_data(aishell1, tmp_path):
    """The archive that holds archives of speakers, as it is distributed, and the same tree unpacked by hand."""
    archive = tmp_path / "data_aishell.tgz"
    with tarfile.open(archive, "w:gz") as tar:
        for path in (aishell1 / "transcript", *sorted(aishell1.glob("wav/*.tar.gz"))):
            tar.add(path, path.relative_to(aishell1.parent))
    sets = {}
    for corpus in (archive, aishell1):
        data = tmp_path / f"data-of-{corpus.name}"
        arguments = ["--corpus", str(corpus), "--downloads", str(tmp_path / "downloads"), "--data", str(data)]
        arguments += ["--stage", "1", "--stop_stage", "3"]
        finished = run("aishell1/asr", *arguments)
        assert finished.returncode == 1
        assert "train must hold 120098 utterances, got 2" in finished.stderr
        out = run_well("aishell1/asr", *arguments, "--check", "incomplete")
        assert "train: 2 utterances, 0.0 hours; 2 without transcript dropped" in out
        sets[corpus] = {name: read_kaldi_dir(data / name) for name in ("train", "dev", "test")}
        pieces = (data / "tokenizer/tokens.txt").read_text().split("\n")
        assert set(pieces[2:-4]) == set("而对楼市成交抑制作用最大")
        assert json.loads((data / "statistics.json").read_text())[str(data / "train")]["unknown_tokens"] == 0
    first, second = sets[archive]["train"]
    assert (first.utt_id, first.spk_id, first.lang) == ("BAC009S0002W0122", "S0002", "cmn")
    assert (first.text, second.text) == ("而对楼市成交", "抑制作用最大")
    assert [u.utt_id for u in sets[archive]["test"]] == ["BAC009S0764W0122"]
    for name in ("train", "dev", "test"):
        texts = [[(u.utt_id, u.text, u.duration_s) for u in found[name]] for found in sets.values()]
        assert texts[0] == texts[1]
    assert not any(u.wav_path.is_relative_to(aishell1) for u in sets[archive]["train"])
    assert all(u.wav_path.is_relative_to(aishell1) for u in sets[aishell1]["train"])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "head"),
    [("paraformer", "num_layers=1 ff_dim=32"), ("cassnat", "num_self_layers=1 num_mixed_layers=2 inter_ce_layer=2")],
)
def test_aishell1_goes_through_all_stages(kind: str, head: str, aishell1, tmp_path):
    """The published configurations, made small."""
    settings = "model.encoder.model_dim=16 model.encoder.num_layers=7 model.encoder.ff_dim=32 train.max_steps=2"
    settings += "".join(f" model.head.{setting}" for setting in head.split())
    settings += " train.precision=fp32 train.validate_every=2"
    arguments = ["--corpus", str(aishell1), "--data", str(tmp_path / "data"), "--exp", str(tmp_path / "exp")]
    arguments += ["--check", "incomplete", "--config", f"conf/train_{kind}.yaml", "--overrides", settings]
    run_well("aishell1/asr", *arguments)
    assert json.loads((tmp_path / "exp/test.asr.json").read_text())["languages"].keys() == {"cmn"}
    assert json.loads((tmp_path / "exp/export/config.json").read_text())["kind"] == kind
    assert (tmp_path / "exp/export/model.safetensors").stat().st_size


def write_mustc(corpus: Path) -> Path:
    """Write a small tree of MuST-C's shape, English to German, below a folder that is returned."""
    root = corpus / "en-de/data"
    for name in ("train", "dev", "tst-COMMON"):
        talks = ["ted_1.wav", "ted_1.wav", "ted_1.wav", "ted_2.wav"]
        for talk in set(talks):
            write_tone(root / name / "wav" / talk, 4.0)
        segments = [
            {"duration": 0.75, "offset": float(i), "rW": 2, "uW": 0, "speaker_id": "spk.1", "wav": talk}
            for i, talk in enumerate(talks)
        ]
        txt = root / name / "txt"
        txt.mkdir()
        (txt / f"{name}.yaml").write_text(yaml.safe_dump(segments))
        (txt / f"{name}.en").write_text("Thank you.\nIt works, too.\nYes.\nGood day.\n")
        (txt / f"{name}.de").write_text("Danke.\nEs geht auch.\n\nGuten Tag.\n")
    return corpus


def test_mustc_data(tmp_path):
    write_mustc(tmp_path)
    arguments = ["--data", str(tmp_path / "data"), "--stop_stage", "3", "--vocab_size", "40"]
    finished = run("mustc/st", *arguments)
    assert finished.returncode == 2
    assert "--corpus" in finished.stderr
    out = run_well("mustc/st", *arguments, "--corpus", str(tmp_path))
    assert "train: 3 utterances, 0.0 hours; 1 without text dropped" in out
    first, second, other_talk = read_kaldi_dir(tmp_path / "data/train")
    assert (second.start_s, second.end_s, second.duration_s) == (1.0, 1.75, 0.75)
    assert second.translations == {"deu": "Es geht auch."}
    assert (first.prev_text, second.prev_text, other_talk.prev_text) == (None, "Thank you.", None)


def test_iwslt_data(tmp_path):
    """Lines about the talks go, titles stay, every 23rd pair is for development, five old sets are the test set."""
    root = tmp_path / "de-en"
    root.mkdir()
    spoken = {
        "de": [f"Satz {i} ist kurz ." for i in range(45)],
        "en": [f"Sentence {i} is short ." for i in range(45)],
    }
    for code, lines in spoken.items():
        lines[1] = {"de": "Ja .", "en": "This is much longer than the other one ."}[code]
        about = ["<url>http://x</url>", "<keywords>a, b</keywords>", "<talkid>1</talkid>", "<title>A  & B</title>"]
        (root / f"train.tags.de-en.{code}").write_text("\n".join([*about, *lines]) + "\n")
        for name in ("TED.dev2010", "TEDX.dev2012", "TED.tst2010", "TED.tst2011", "TED.tst2012"):
            segments = (
                f'<doc docid="1">\n<seg id="1"> {name} in {code} &amp; so on </seg>\n<seg id="2">Two</seg>\n</doc>'
            )
            (root / f"IWSLT14.{name}.de-en.{code}.xml").write_text(f"<mteval>\n{segments}\n</mteval>\n")
    with tarfile.open(tmp_path / "de-en.tgz", "w:gz") as tar:
        tar.add(root, "de-en")
    data = tmp_path / "data"
    arguments = ["--corpus", str(tmp_path / "de-en.tgz"), "--downloads", str(tmp_path), "--data", str(data)]
    out = run_well("iwslt/mt", *arguments, "--vocab_size", "40", "--stop_stage", "3")
    assert "train 44, dev 1, test 10 pairs; 1 of the talks dropped" in out
    train, dev, test = (read_sentences(data / name) for name in ("train", "dev", "test"))
    assert (train[0].text, train[0].lang, train[0].translations) == ("A & B", "deu", {"eng": "A & B"})
    assert dev[0].text == "Satz 22 ist kurz ." and "Satz 22 ist kurz ." not in {s.text for s in train}
    assert ("TED.dev2010 in de & so on", {"eng": "TED.dev2010 in en & so on"}) in [
        (s.text, s.translations) for s in test
    ]
    assert json.loads((data / "statistics.json").read_text())
    path = root / "IWSLT14.TED.tst2012.de-en.en.xml"
    path.write_text(path.read_text().replace('<seg id="2">Two</seg>', ""))
    finished = run("iwslt/mt", *arguments[2:], "--corpus", str(root), "--stage", "1", "--stop_stage", "1")
    assert "TED.tst2012 must have as many lines in German as in English, got 2 and 1" in finished.stderr


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*/*/conf/*.yaml")), ids=lambda path: path.parts[-4])
def test_configurations_are_valid(path: Path):
    config = load_config(path, RunConfig)
    assert config.train.max_steps or config.train.max_epochs


def write_lj_speech(root: Path) -> Path:
    """Write a small tree of LJSpeech's shape: clips of every set, at its sample rate."""
    rng = np.random.default_rng(0)
    lines = []
    (root / "LJSpeech-1.1/wavs").mkdir(parents=True)
    for name in [*(f"LJ001-{i:04d}" for i in range(1, 9)), *(f"LJ002-{i:04d}" for i in (121, 122, 131, 132))]:
        times = np.arange(round(1.6 * 22050)) / 22050
        wav = 0.2 * np.sin(2 * np.pi * 200 * times) * np.sin(2 * np.pi * 3 * times) + 0.01 * rng.normal(size=len(times))
        soundfile.write(root / f"LJSpeech-1.1/wavs/{name}.wav", wav, 22050)
        lines.append(f"{name}|Dr. Hill saw it.|Doctor Hill saw it.\n")
    (root / "LJSpeech-1.1/metadata.csv").write_text("".join(lines))
    return root / "LJSpeech-1.1"


def tiny_synthesis(folder: Path) -> list[str]:
    """Write configurations of the smallest models, and return the options that name them."""
    train = {"max_steps": 2, "validate_every": 2, "optim": {"schedule": {"kind": "inv_sqrt", "warmup_steps": 10}}}
    data = {"train": "unset", "dev": "unset", "batch_seconds": 8, "num_buckets": 2}
    models = {
        "vocos": VocosCodedConfig.debug().model_dump(mode="json"),
        "ardit": {**TtsConfig.debug().model_dump(mode="json"), "aligner": {}},
    }
    for name, model in models.items():
        config = {"model": model, "data": data, "train": train, "tokenizer": "unset"}
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(config))
    options = {"vocoder_configs": "vocos", "config": "ardit", "one_step": "ardit"}
    return [text for option, name in options.items() for text in (f"--{option}", str(folder / f"{name}.yaml"))]


@pytest.mark.slow
def test_ljspeech_through_all_stages(tmp_path):
    corpus = write_lj_speech(tmp_path)
    data, exp = tmp_path / "data", tmp_path / "exp"
    options = ["--corpus", str(corpus), "--downloads", str(tmp_path), "--data", str(data), "--exp", str(exp)]
    options += tiny_synthesis(tmp_path)
    run_well("ljspeech/tts", *options, "--stop_stage", "6")
    timed = read_kaldi_dir(data / "train")
    tokenizer = load_tokenizer(data / "tokenizer")
    assert all(len(utt.durations) == len(tokenizer.encode(utt.text)) for utt in timed)
    assert sorted(path.name for path in (exp / "speech").iterdir()) == ["coded", "steps1", "steps16", "vocoded"]
    for folder in (exp / "speech").iterdir():
        assert sorted(path.name for path in folder.iterdir()) == ["LJ002-0131.wav", "LJ002-0132.wav"]
    finished = run("ljspeech/tts", *options, "--stage", "7")
    assert finished.returncode == 2
    assert "stage 7 needs --judge, a recogniser, and --verifier" in finished.stderr
    torch.manual_seed(0)
    save_model(tmp_path / "verifier", SpeakerVerifier(SpeakerVerifierConfig.debug()), tokenizer)
    report = run_well("ljspeech/tts", *options, "--stage", "7", "--verifier", str(tmp_path / "verifier"))
    assert "steps16: " in report
    assert set(json.loads((exp / "speech/speech.json").read_text())["systems"]) >= {"recorded", "coded", "steps1"}
    voice = load_model(exp / "export").model
    assert isinstance(voice, Tts)
    assert torch.equal(voice.aligner.means, load_model(exp / "aligner").model.means)
    # A vocoder that is there already is not trained again, and every stage may run twice.
    run_well("ljspeech/tts", *options, "--vocoder", str(exp / "vocos/model"), "--stop_stage", "4")


@pytest.mark.slow
def test_speakers_are_gathered_from_four_corpora(asterisk, an4, fsdd, tmp_path):
    corpora = {"asterisk": asterisk, "an4": an4, "fsdd": fsdd, "ljspeech": write_lj_speech(tmp_path)}
    options = [text for name, corpus in corpora.items() for text in (f"--corpus_{name}", str(corpus))]
    options += ["--data", str(tmp_path / "data"), "--downloads", str(tmp_path / "downloads"), "--most", "5"]
    run_well("speakers/verification", *options, "--stop_stage", "3")
    train = read_kaldi_dir(tmp_path / "data/train")
    counts = Counter(utterance.spk_id for utterance in train)
    assert max(counts.values()) <= 5
    assert counts["lj"] and counts["jackson"]
    assert "spa-allison" not in counts and "eng-allison" in counts


@pytest.mark.slow
def test_digits_are_prepared_for_synthesis(fsdd, tmp_path):
    run_well(
        "fsdd/tts",
        *("--corpus", str(fsdd), "--downloads", str(tmp_path), "--data", str(tmp_path / "data"), "--stop_stage", "2"),
    )
    joined = read_kaldi_dir(tmp_path / "data/train_joined")
    assert {len(utterance.text.split()) for utterance in joined} >= {2, 3, 4, 5, 6}
    assert len(load_tokenizer(tmp_path / "data/tokenizer").encode("two")) == 4


def test_libritts_data_stages_on_a_small_tree(tmp_path):
    for part, readers in (("train-clean-100", "12"), ("dev-clean", "3"), ("test-clean", "45")):
        for reader in readers:
            for number, seconds in enumerate((1.5, 4.0, 5.0)):
                path = tmp_path / "LibriTTS" / part / reader / "7" / f"{reader}_7_{number:06d}_000000.wav"
                write_tone(path, seconds, rate=24000)
                path.with_suffix(".normalized.txt").write_text(f"Reader {reader}, it works.\n")
    options = ["--corpus", str(tmp_path / "LibriTTS"), "--data", str(tmp_path / "data"), "--parts", "train-clean-100"]
    out = run_well("libritts/tts", *options, "--stop_stage", "2")
    assert "train: 6 utterances, 0.0 hours" in out
    train = read_kaldi_dir(tmp_path / "data/train")
    assert {utterance.spk_id for utterance in train} == {"1", "2"}
    assert train[0].text == "Reader 1, it works."
    voices, test = (read_kaldi_dir(tmp_path / "data" / name) for name in ("voices", "test"))
    assert [utterance.utt_id for utterance in voices] == ["4_7_000001_000000", "5_7_000001_000000"]
    assert len(test) == 4  # without the references
    path.with_suffix(".normalized.txt").write_text(" \n")
    finished = run("libritts/tts", *options, "--stage", "1", "--stop_stage", "1")
    assert "must hold a text" in finished.stderr


def test_libritts_configuration_is_that_of_the_paper():
    config = load_config(RECIPES / "libritts/tts/conf/ardit.yaml", RunConfig).model
    published = TtsConfig.published()
    codec = published.codec.model_copy(update={"context_prob": 1.0})  # as it ends its training
    assert config == published.model_copy(update={"codec": codec})
    step = load_config(RECIPES / "libritts/tts/conf/one_step.yaml", RunConfig).model
    assert step.tts == config
