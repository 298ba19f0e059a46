"""The command: exit statuses, what goes where, and answers to mistakes."""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
import soundfile

from speechnar import hub
from speechnar.asr.options import DecodeOptions
from speechnar.asr.transcriber import Transcriber
from speechnar.cli import main as cli
from speechnar.cli.main import main
from speechnar.data.kaldi import Utterance, write_kaldi_dir
from tests.reference.funasr_folders import read_golden, write_folder
from tests.unit.tiny import LANGUAGES, RATE, save_tiny_joint, save_tiny_model, speechlike, write_speechlike

ROOT = Path(cli.__file__).parents[2]
VERBS = ["transcribe", "translate", "caption", "detect-language", "align", "synthesize", "edit", "generate"]
VERBS += ["models", "convert", "train", "average", "decode", "score", "demo"]


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    return str(save_tiny_model(tmp_path_factory.mktemp("models") / "tiny"))


@pytest.fixture(scope="module")
def joint(tmp_path_factory) -> str:
    return str(save_tiny_joint(tmp_path_factory.mktemp("models") / "joint"))


@pytest.fixture(scope="module")
def wav(tmp_path_factory) -> str:
    return str(write_speechlike(tmp_path_factory.mktemp("wavs") / "talk.wav", 3.0))


@pytest.fixture(autouse=True)
def loaded_once(monkeypatch, model):
    """Keep the model in memory between the commands of a test."""
    cache = {}
    load = Transcriber.load

    def cached(name, *, device="auto"):
        if name not in cache:
            cache[name] = load(name, device="cpu")
        return cache[name]

    monkeypatch.setattr(Transcriber, "load", cached)


@pytest.fixture
def data_dir(tmp_path) -> Path:
    utterances = []
    for i, (lang, text) in enumerate([("eng", "the cat sat"), ("deu", "a dog ran"), ("eng", "good day")]):
        path = write_speechlike(tmp_path / f"{i}.wav", 1.0 + i, seed=i)
        translations = {"fra": "le chat"} if i == 0 else {}
        utterances.append(
            Utterance(f"utt-{i}", path, text, "spk", duration_s=1.0 + i, lang=lang, translations=translations)
        )
    write_kaldi_dir(tmp_path / "data", utterances)
    return tmp_path / "data"


def run(*argv: str, **options) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "speechnar", *argv], capture_output=True, text=True, cwd=ROOT, check=False, **options
    )


# Help.


@pytest.mark.parametrize("argv", [["--help"], ["--version"], *([verb, "--help"] for verb in VERBS)])
def test_help_answers_without_torch(argv):
    code = f"import sys; from speechnar.cli.main import main; s = main({argv!r}); sys.exit(s or 'torch' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)
    assert found.returncode == 0, found.stderr
    assert found.stdout
    assert not found.stderr


def test_import_is_lazy():
    code = "import sys, speechnar; sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


# Transcribe.


def test_txt_on_stdout_and_nothing_else(model, wav, capsys):
    assert main(["transcribe", wav, "-m", model]) == 0
    out, err = capsys.readouterr()
    expected = Transcriber.load(model).transcribe(wav)
    assert out == expected.to_txt()
    assert "times real time" in err
    assert main(["transcribe", wav, "-m", model, "--quiet"]) == 0
    assert capsys.readouterr() == (out, "")


def test_the_decoder_is_chosen(joint, wav, data_dir, tmp_path, capsys):
    for decoder in ("ctc", "cassnat", "paraformer", "transformer_ar"):
        assert main(["transcribe", wav, "-m", joint, "--decoder", decoder, "-q"]) == 0
        expected = Transcriber.load(joint).transcribe(wav, options=DecodeOptions(decoder=decoder))
        assert capsys.readouterr().out == expected.to_txt()
    assert main(["transcribe", wav, "-m", joint, "--decoder", "cassnat", "--num-alignments", "4", "-q"]) == 0
    out = tmp_path / "hyp"
    assert main(["decode", joint, str(data_dir), str(out), "--decoder", "paraformer"]) == 0
    assert len(out.read_text().splitlines()) == 3
    assert main(["transcribe", wav, "-m", joint, "--num-alignments", "4"]) == 2
    assert "use cassnat" in capsys.readouterr().err


def test_a_model_without_the_decoder_says_what_it_has(model, wav, capsys):
    assert main(["transcribe", wav, "-m", model, "--decoder", "paraformer"]) == 2
    assert "decodes with ctc; got decoder 'paraformer'" in capsys.readouterr().err


def test_several_files_are_named(model, wav, capsys):
    assert main(["transcribe", wav, wav, "-m", model]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    assert all(line.startswith(f"{wav}: ") for line in lines)


def test_options_may_stand_between_files(model, wav, capsys):
    assert main(["transcribe", wav, "-m", model, wav, "-q", wav]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 3


def test_json_lines(model, wav, capsys):
    assert main(["transcribe", wav, wav, "-m", model, "-f", "json", "--word-timestamps", "-l", "de"]) == 0
    first, second = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert first == second
    expected = Transcriber.load(model).transcribe(wav, language="deu", word_timestamps=True).to_dict()
    assert first.keys() == expected.keys()
    assert first["segments"][0].keys() == expected["segments"][0].keys()
    assert (first["text"], first["language"]) == (expected["text"], "deu")


@pytest.mark.parametrize("name", ["srt", "vtt", "tsv"])
def test_subtitles_of_one_file_on_stdout(model, wav, capsys, name):
    assert main(["transcribe", wav, "-m", model, "-f", name]) == 0
    assert capsys.readouterr().out == getattr(Transcriber.load(model).transcribe(wav), f"to_{name}")()


def test_all_formats_into_a_folder(model, wav, capsys, tmp_path):
    out = tmp_path / "out"
    assert main(["transcribe", wav, wav, "-m", model, "-f", "all", "-o", str(out)]) == 0
    assert capsys.readouterr().out == ""
    suffixes = ("json", "srt", "tsv", "txt", "vtt")
    assert sorted(path.name for path in out.iterdir()) == sorted(
        f"{stem}.{suffix}" for stem in ("talk", "talk-2") for suffix in suffixes
    )


def test_bad_files_are_named_and_the_others_done(model, wav, capsys, tmp_path):
    bad = {name: tmp_path / name for name in ("empty.wav", "text.wav", "missing.wav")}
    bad["empty.wav"].touch()
    bad["text.wav"].write_text("no audio")
    assert main(["transcribe", *map(str, bad.values()), wav, "-m", model, "-f", "json", "-q"]) == 1
    out, err = capsys.readouterr()
    assert json.loads(out)["file"] == wav
    lines = err.splitlines()
    assert len(lines) == 3
    for path, line in zip(bad.values(), lines, strict=True):
        assert line.startswith(f"speechnar: {path}: ")


@pytest.mark.parametrize("name", ["../up", "-rf", "new\nline", "tab\there", "semi;colon $(x)", "\x1b[31mred", "ü" * 60])
def test_hostile_names(model, capsys, tmp_path, name):
    folder = tmp_path / "in"
    folder.mkdir()
    path = folder / f"{name.replace('../', '..')}.wav"
    soundfile.write(path.open("wb"), speechlike(0.5), RATE, format="WAV")
    out = tmp_path / "out"
    assert main(["transcribe", "-m", model, "-f", "txt", "-o", str(out), "--", str(path), str(path) + "x"]) == 1
    assert len(list(out.iterdir())) == 1
    assert sorted(tmp_path.iterdir()) == [folder, out]
    complaint = [line for line in capsys.readouterr().err.split("\n") if line.startswith("speechnar: ")]
    assert len(complaint) == 1
    assert complaint[0].isprintable()


def test_an_undecodable_name(model, tmp_path):
    path = tmp_path / "x.wav"
    write_speechlike(path, 0.5)
    odd = os.fsencode(tmp_path) + b"/\xff.wav"
    path.rename(os.fsdecode(odd))
    found = subprocess.run(
        [os.fsencode(sys.executable), b"-m", b"speechnar", b"transcribe", odd, b"-m", model.encode(), b"-f", b"json"],
        capture_output=True,
        cwd=ROOT,
        check=False,
    )
    assert found.returncode == 0, found.stderr
    assert json.loads(found.stdout)["duration"] == 0.5


def test_translate(model, wav, capsys):
    assert main(["translate", wav, "--to", "de", "-m", model, "-f", "json"]) == 0
    expected = json.loads(capsys.readouterr().out)
    assert expected["task"] == "translate"
    assert main(["translate", "-m", model, "--to", "de", "-f", "json", wav]) == 0
    assert json.loads(capsys.readouterr().out) == expected


def test_detect_language(model, wav, capsys):
    assert main(["detect-language", wav, "-m", model]) == 0
    language, probability = capsys.readouterr().out.split()
    assert language in LANGUAGES
    assert 0 <= float(probability) <= 1
    assert main(["detect-language", wav, "/no/such.wav", "-m", model, "-f", "json"]) == 1
    out, err = capsys.readouterr()
    assert json.loads(out) == {"file": wav, "language": language, "probability": float(probability)}
    assert "speechnar: /no/such.wav: " in err


def test_align(model, wav, capsys):
    assert main(["align", wav, "--text", "the cat sat", "-m", model]) == 0
    rows = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert [row[2] for row in rows] == ["the", "cat", "sat"]
    assert main(["align", wav, "--text", "the cat sat", "-m", model, "-f", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["text"] == "the cat sat"


# Mistakes.


@pytest.mark.parametrize(
    "argv",
    [
        [],
        ["sing"],
        ["transcribe"],
        ["transcribe", "a.wav", "--no-such-option"],
        ["transcribe", "a.wav", "-f", "doc"],
        ["transcribe", "a.wav", "--hotw", "x"],  # abbreviations would freeze the names of options
        ["translate", "a.wav"],
        ["align", "a.wav"],
        ["train", "conf.yaml"],
    ],
)
def test_wrong_usage(argv, capsys):
    assert main(argv) == 2
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["-l", "rus"], "eng, deu, fra"),
        (["-l", "Klingonese"], "language"),
        (["-f", "all"], "-o DIR"),
        (["-f", "srt", "{wav}"], "-o DIR"),
        (["--beam-size", "0"], "beam_size"),
        (["--batch-seconds", "-1"], "batch_seconds"),
        (["--threads", "0"], "--threads"),
        (["--hotwords", "Ω"], "spell"),
    ],
)
def test_options_that_cannot_be(model, wav, capsys, argv, says):
    argv = [arg.format(wav=wav) for arg in argv]
    assert main(["transcribe", wav, "-m", model, *argv]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("speechnar: ")
    assert err.count("\n") == 1
    assert says in err


def test_unknown_model(wav, capsys):
    assert main(["transcribe", wav, "-m", "no such model"]) == 2
    assert "no such model" in capsys.readouterr().err


def test_damaged_model(wav, capsys, tmp_path, model):
    folder = tmp_path / "damaged"
    folder.mkdir()
    for path in Path(model).iterdir():
        (folder / path.name).write_bytes(path.read_bytes()[:100])
    assert main(["transcribe", wav, "-m", str(folder)]) == 1
    assert capsys.readouterr().err.count("\n") == 1


def test_traceback_only_with_debug(model, wav, capsys):
    assert main(["transcribe", wav, "-m", model, "-l", "rus"]) == 2
    assert "Traceback" not in capsys.readouterr().err
    with pytest.raises(cli.ConfigError):
        main(["transcribe", wav, "-m", model, "-l", "rus", "--debug"])


def test_bugs_are_one_line_too(model, wav, capsys, monkeypatch):
    monkeypatch.setattr(Transcriber, "transcribe_many", lambda *args, **options: 1 / 0)
    assert main(["transcribe", wav, "-m", model]) == 1
    err = capsys.readouterr().err
    assert err.startswith("speechnar: internal error (ZeroDivisionError")
    assert err.count("\n") == 1


def test_interrupt_is_clean(model, wav, capsys, monkeypatch):
    def interrupt(*args, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(Transcriber, "transcribe_many", interrupt)
    assert main(["transcribe", wav, "-m", model]) == 130
    assert capsys.readouterr().err == "speechnar: interrupted\n"


def test_sigint_of_the_real_process(model, tmp_path):
    """However far it has come, Ctrl-C ends it within seconds and without a traceback."""
    long = write_speechlike(tmp_path / "long.wav", 29.0)
    argv = [sys.executable, "-m", "speechnar", "transcribe", *[str(long)] * 400, "-m", model]
    # What a shell starts in the background, tests for example, ignores the signal, and so would the process.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        process = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT)
    finally:
        signal.signal(signal.SIGINT, before)
    with process:
        time.sleep(3)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "Traceback" not in err
    assert err.endswith("speechnar: interrupted\n")


def test_sigint_while_torch_is_imported(tmp_path, wav):
    """Its C++ drops the interrupt, as this one does."""
    (tmp_path / "torch.py").write_text(
        "import time\ntry:\n    print('ready', flush=True); time.sleep(30)\nexcept KeyboardInterrupt:\n    pass\n"
    )
    code = "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler);"
    code += f"sys.path[0] = {str(tmp_path)!r};"
    code += "from speechnar.cli.main import main; sys.exit(main())"
    argv = [sys.executable, "-c", code, "transcribe", wav]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=20)
    assert (process.returncode, err) == (130, "speechnar: interrupted\n")


def test_an_interrupt_that_is_dropped_comes_again(monkeypatch):
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    monkeypatch.setattr(cli, "RAISED_AGAIN_S", 0.05)
    try:
        with pytest.raises(KeyboardInterrupt), cli._interruptible():
            with suppress(KeyboardInterrupt):  # a callback from C
                os.kill(os.getpid(), signal.SIGINT)
                time.sleep(0.01)
            time.sleep(1)
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
        assert signal.getitimer(signal.ITIMER_REAL)[0] == 0
    finally:
        signal.signal(signal.SIGINT, before)


def test_reader_that_leaves(model, wav):
    command = f"{sys.executable} -m speechnar transcribe {wav} {wav} -m {model} | true"
    found = subprocess.run(["bash", "-c", command], capture_output=True, text=True, cwd=ROOT, check=False)
    assert "Traceback" not in found.stderr
    assert "Exception ignored" not in found.stderr


# Data directories.


def test_decode_then_score(model, data_dir, tmp_path, capsys):
    hyp = tmp_path / "exp" / "hyp"
    assert main(["decode", model, str(data_dir), str(hyp)]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert (summary["utterances"], summary["failed"], summary["audio_s"]) == (3, 0, 6.0)
    assert summary["rtf"] == pytest.approx(summary["wall_s"] / 6.0)
    lines = hyp.read_text().splitlines()
    assert [line.split(" ")[0] for line in lines] == ["utt-0", "utt-1", "utt-2"]
    entries = [json.loads(line) for line in Path(f"{hyp}.jsonl").read_text().splitlines()]
    alone = Transcriber.load(model).transcribe(str(tmp_path / "1.wav"))
    assert lines[1] == f"utt-1 {alone.text}"
    assert (entries[1]["text"], entries[1]["language"]) == (alone.text, alone.language)
    assert entries[1]["task"] == "asr"
    assert entries[1]["segments"][0]["words"]

    assert main(["score", str(data_dir), str(hyp), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["normalizer"] == "basic"
    assert list(report["languages"]) == ["deu", "eng", "all"]
    assert report["languages"]["all"]["wer"]["ref_len"] == 8
    right = sum(entry["language"] == lang for entry, lang in zip(entries, ("eng", "deu", "eng"), strict=True))
    assert report["lid"] == {"accuracy": pytest.approx(right / 3), "utterances": 3}
    means = {
        unit: sum(report["languages"][lang][unit]["rate"] for lang in ("deu", "eng")) / 2 for unit in ("wer", "cer")
    }
    assert report["macro"] == pytest.approx(means)
    assert main(["score", str(data_dir), str(hyp)]) == 0
    out = capsys.readouterr().out
    assert out.startswith("normalizer: basic\n")
    assert "eng: WER" in out
    assert "eng: CER" in out


def test_scores_in_closed_form(data_dir, tmp_path, capsys):
    hyp = tmp_path / "hyp"
    hyp.write_text("utt-0 The cat, sat!\nutt-1 a dog\nutt-2 good bye now\n")
    assert main(["score", str(data_dir), str(hyp), "--json"]) == 0
    languages = json.loads(capsys.readouterr().out)["languages"]
    assert languages["deu"]["wer"]["rate"] == pytest.approx(1 / 3)
    assert languages["eng"]["wer"]["rate"] == pytest.approx(2 / 5)
    assert languages["all"]["wer"]["rate"] == pytest.approx(3 / 8)
    assert languages["all"]["wer"]["normalizer"] == "basic"
    assert main(["score", str(data_dir), str(hyp), "--json", "--normalizer", "none"]) == 0
    assert json.loads(capsys.readouterr().out)["languages"]["eng"]["wer"]["rate"] > 2 / 5


def test_score_translations(data_dir, tmp_path, capsys):
    hyp = tmp_path / "hyp"
    hyp.write_text("utt-0 le chat\nutt-1\nutt-2 x\n")
    assert main(["score", str(data_dir), str(hyp), "--target", "fr", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["normalizer"], report["target"]) == ("none", "fra")
    assert report["languages"]["eng"]["utterances"] == 1
    assert report["languages"]["eng"]["chrf"]["value"] == 1.0
    assert "signature" in report["languages"]["eng"]["bleu"]
    assert main(["score", str(data_dir), str(hyp), "--target", "spa"]) == 1
    assert "text.spa" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("utt-0 a\n", "2 utterances are not in"),
        ("utt-0 a\nutt-1\nutt-2\nutt-9\n", "'utt-9'"),
        ("utt-0 a\nutt-0 b\n", ":2: "),
        ("\n", ":1: "),
    ],
)
def test_hypotheses_of_other_data(data_dir, tmp_path, capsys, text, says):
    hyp = tmp_path / "hyp"
    hyp.write_text(text)
    assert main(["score", str(data_dir), str(hyp)]) == 1
    assert says in capsys.readouterr().err


def test_decode_with_given_languages_and_task(model, data_dir, tmp_path, capsys):
    hyp = tmp_path / "hyp"
    assert main(["decode", model, str(data_dir), str(hyp), "--task", "st_deu", "--language", "given"]) == 0
    entries = [json.loads(line) for line in Path(f"{hyp}.jsonl").read_text().splitlines()]
    assert [entry["language"] for entry in entries] == ["eng", "deu", "eng"]
    assert {entry["task"] for entry in entries} == {"st_deu"}
    capsys.readouterr()
    assert main(["score", str(data_dir), str(hyp), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["lid"] is None  # nothing was detected
    assert main(["decode", model, str(data_dir), str(hyp), "--task", "sing"]) == 2


def test_decode_goes_on_after_a_bad_utterance(model, data_dir, tmp_path, capsys):
    (tmp_path / "1.wav").write_bytes((tmp_path / "1.wav").read_bytes()[:30])
    hyp = tmp_path / "hyp"
    assert main(["decode", model, str(data_dir), str(hyp)]) == 1
    out, err = capsys.readouterr()
    assert json.loads(out)["failed"] == 1
    assert "utt-1" in err
    lines = hyp.read_text().splitlines()
    assert lines[1] == "utt-1"
    assert len(lines[2].split()) > 1


# The rest.


def test_models_table(model, capsys, monkeypatch):
    monkeypatch.setattr(hub, "SHIPPED_FOLDER", Path(model).parent)
    monkeypatch.setattr(hub, "_cached_folders", list)
    assert main(["models"]) == 0
    header, row = capsys.readouterr().out.splitlines()
    assert header.split() == ["name", "task", "size", "languages", "licence", "from", "present"]
    assert row.startswith("tiny  asr, st")
    assert "apache-2.0" in row
    assert main(["models", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["languages"] == "eng, deu, fra"


def test_train_wants_a_valid_config(tmp_path, capsys):
    config = tmp_path / "conf.yaml"
    config.write_text("nonsense: 1\n")
    assert main(["train", str(config), "--exp", str(tmp_path / "exp")]) == 2
    assert "nonsense" in capsys.readouterr().err


def test_train_overrides_may_follow_options(tmp_path, capsys, monkeypatch):
    from speechnar.train import run as train_run

    seen = []
    monkeypatch.setattr("speechnar.config.load_config", lambda path, cls, overrides: seen.extend(overrides))
    result = train_run.TrainResult(7, 0, 5, {"wer": 0.1}, 0, [])
    monkeypatch.setattr(train_run, "run_training", lambda config, exp: result)
    exp = tmp_path / "exp"
    assert main(["train", "conf.yaml", "a.b=1", "--exp", str(exp), "c=2", "d=x y"]) == 0
    assert seen == ["a.b=1", "c=2", "d=x y"]
    assert capsys.readouterr().out == f"{exp / 'model'}\n"


def test_average_wants_a_run(tmp_path, capsys):
    assert main(["average", str(tmp_path)]) in (1, 2)
    assert capsys.readouterr().err.count("\n") == 1


def test_threads(model, wav, monkeypatch):
    import torch

    calls = []
    monkeypatch.setattr(torch, "set_num_threads", calls.append)
    assert main(["transcribe", wav, "-m", model, "--threads", "1"]) == 0
    assert calls == [1]


def test_a_model_of_funasr_is_converted_and_used(tmp_path, wav, capsys):
    source = write_folder(read_golden("seaco"), tmp_path / "funasr")
    assert main(["convert", str(source), str(tmp_path / "ours")]) == 0
    assert "tensors" in capsys.readouterr().out.splitlines()[-1]
    assert main(["transcribe", "-q", "-m", str(tmp_path / "ours"), wav]) == 0
    assert any("一" <= letter <= "鿿" for letter in capsys.readouterr().out)
    assert main(["convert", str(tmp_path), str(tmp_path / "none")]) == 2
    assert "need a folder of ESPnet" in capsys.readouterr().err
