"""The commands that hear: transcripts, their files and formats, languages, word times, and data directories."""

import json
import os
import signal
import sys
from pathlib import Path

import pytest
import soundfile

from speechnar.asr.options import DecodeOptions
from speechnar.asr.transcriber import Transcriber
from speechnar.cli import main as cli
from speechnar.cli.main import main
from tests.unit.tiny import LANGUAGES, RATE, save_tiny_whisper, speechlike, vowels, write_speechlike

pytestmark = pytest.mark.usefixtures("loaded_once")
ROOT = Path(cli.__file__).parents[2]


# Files.


def test_txt_on_stdout_and_nothing_else(recognizer, wav, capsys):
    assert main(["transcribe", wav, "-m", recognizer]) == 0
    out, err = capsys.readouterr()
    expected = Transcriber.load(recognizer).transcribe(wav)
    assert out == expected.to_txt()
    assert "times real time" in err
    assert main(["transcribe", wav, "-m", recognizer, "--quiet"]) == 0
    assert capsys.readouterr() == (out, "")


def test_the_decoder_is_chosen(joint, wav, data_dir, tmp_path, capsys):
    for decoder in ("ctc", "cassnat", "paraformer", "refiner", "transformer_ar"):
        assert main(["transcribe", wav, "-m", joint, "--decoder", decoder, "-q"]) == 0
        expected = Transcriber.load(joint).transcribe(wav, options=DecodeOptions(decoder=decoder))
        assert capsys.readouterr().out == expected.to_txt()
    assert main(["transcribe", wav, "-m", joint, "--decoder", "cassnat", "--num-alignments", "4", "-q"]) == 0
    out = tmp_path / "hyp"
    assert main(["decode", joint, str(data_dir), str(out), "--decoder", "paraformer"]) == 0
    assert len(out.read_text().splitlines()) == 3
    assert main(["transcribe", wav, "-m", joint, "--num-alignments", "4"]) == 2
    assert "use cassnat" in capsys.readouterr().err


def test_a_whisper_trunk_has_a_refiner_and_text_may_be_plain(wav, tmp_path, capsys):
    model = str(save_tiny_whisper(tmp_path / "whisper"))
    for decoder in ("refiner", "transformer_ar"):
        texts = []
        for plain in (False, True):
            argv = ["transcribe", wav, "-m", model, "--decoder", decoder, "-q", *(["--plain"] if plain else [])]
            assert main(argv) == 0
            expected = Transcriber.load(model).transcribe(wav, options=DecodeOptions(decoder=decoder, plain=plain))
            assert capsys.readouterr().out == expected.to_txt()
            texts.append(expected.text)
        assert texts[0] != texts[1] == texts[1].lower()


def test_a_model_without_the_decoder_says_what_it_has(recognizer, wav, capsys):
    assert main(["transcribe", wav, "-m", recognizer, "--decoder", "paraformer"]) == 2
    assert "decodes with ctc; got decoder 'paraformer'" in capsys.readouterr().err


def test_several_files_are_named(recognizer, wav, capsys):
    assert main(["transcribe", wav, wav, "-m", recognizer]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    assert all(line.startswith(f"{wav}: ") for line in lines)


def test_json_lines(recognizer, wav, capsys):
    assert main(["transcribe", wav, wav, "-m", recognizer, "-f", "json", "--word-timestamps", "-l", "de"]) == 0
    first, second = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert first == second
    expected = Transcriber.load(recognizer).transcribe(wav, language="deu", word_timestamps=True).to_dict()
    assert first.keys() == expected.keys()
    assert first["segments"][0].keys() == expected["segments"][0].keys()
    assert (first["text"], first["language"]) == (expected["text"], "deu")


@pytest.mark.parametrize("name", ["srt", "vtt", "tsv"])
def test_subtitles_of_one_file_on_stdout(recognizer, wav, capsys, name):
    assert main(["transcribe", wav, "-m", recognizer, "-f", name]) == 0
    assert capsys.readouterr().out == getattr(Transcriber.load(recognizer).transcribe(wav), f"to_{name}")()


def test_captions_are_laid_out_as_asked(recognizer, wav, capsys, tmp_path):
    expected = Transcriber.load(recognizer).transcribe(wav)
    limits = ["--max-line-width", "8", "--max-lines", "1", "--words-per-line", "1"]
    assert main(["transcribe", wav, "-m", recognizer, "-q", "-f", "srt", *limits]) == 0
    assert capsys.readouterr().out == expected.to_srt(8, 1, 1) != expected.to_srt()
    assert main(["transcribe", wav, "-m", recognizer, "-q", "-f", "all", "-o", str(tmp_path), *limits]) == 0
    assert next(tmp_path.rglob("*.vtt")).read_text() == expected.to_vtt(8, 1, 1)
    assert main(["transcribe", wav, "-m", recognizer, "-f", "json", "--max-lines", "1"]) == 2
    assert "not in -f json" in capsys.readouterr().err
    assert main(["transcribe", wav, "-m", recognizer, "-f", "vtt", "--words-per-line", "0"]) == 2
    assert "max_words_per_line must be at least 1, got 0" in capsys.readouterr().err


def test_all_formats_into_a_folder(recognizer, capsys, tmp_path):
    files = [str(write_speechlike(tmp_path / name, 1.0)) for name in ("talk.wav", "walk.wav")]
    out = tmp_path / "out"
    assert main(["transcribe", *files, *files, "-m", recognizer, "-f", "all", "-o", str(out)]) == 0
    assert capsys.readouterr().out == ""
    suffixes = ("json", "srt", "tsv", "txt", "vtt")
    assert sorted(path.name for path in out.iterdir()) == sorted(
        f"{stem}.{suffix}" for stem in ("talk", "walk") for suffix in suffixes
    )


def test_bad_files_are_named_and_the_others_done(recognizer, wav, capsys, tmp_path):
    bad = {name: tmp_path / name for name in ("empty.wav", "text.wav", "missing.wav")}
    bad["empty.wav"].touch()
    bad["text.wav"].write_text("no audio")
    assert main(["transcribe", *map(str, bad.values()), wav, "-m", recognizer, "-f", "json", "-q"]) == 1
    out, err = capsys.readouterr()
    assert json.loads(out)["file"] == wav
    lines = err.splitlines()
    assert len(lines) == 3
    for path, line in zip(bad.values(), lines, strict=True):
        assert line.startswith(f"speechnar: {path}: ")


@pytest.mark.parametrize("name", ["../up", "-rf", "new\nline", "tab\there", "semi;colon $(x)", "\x1b[31mred", "ü" * 60])
def test_hostile_names(recognizer, capsys, tmp_path, name):
    folder = tmp_path / "in"
    folder.mkdir()
    path = folder / f"{name.replace('../', '..')}.wav"
    soundfile.write(path.open("wb"), speechlike(0.5), RATE, format="WAV")
    out = tmp_path / "out"
    assert main(["transcribe", "-m", recognizer, "-f", "txt", "-o", str(out), "--", str(path), str(path) + "x"]) == 1
    assert len(list(out.iterdir())) == 1
    assert sorted(tmp_path.iterdir()) == [folder, out]
    complaint = [line for line in capsys.readouterr().err.split("\n") if line.startswith("speechnar: ")]
    assert len(complaint) == 1
    assert complaint[0].isprintable()


def test_an_undecodable_name(interpreter, recognizer, tmp_path):
    path = tmp_path / "x.wav"
    write_speechlike(path, 0.5)
    odd = os.fsencode(tmp_path) + b"/\xff.wav"
    path.rename(os.fsdecode(odd))
    found = interpreter.speechnar("transcribe", odd, "-m", recognizer, "-f", "json")
    assert found.returncode == 0, found.stderr
    assert json.loads(found.stdout)["duration"] == 0.5


def test_a_folder_that_cannot_be_written_is_named_before_anything_is_read(wav, capsys, tmp_path):
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        assert main(["transcribe", wav, "-m", "no such model", "-o", str(folder)]) == 1
        err = capsys.readouterr().err
        assert err.startswith(f"speechnar: {folder}: cannot be written (") and err.endswith(
            "give another place by -o\n"
        )


KILLED_IN_A_BATCH = """
import os, signal, sys
from speechnar.asr.clips import ClipDecoder
from speechnar.cli.main import main

encode, decoded = ClipDecoder.encode, []

def counted(self, clips):
    if len(decoded) == {last}:
        print(sum(decoded), flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
    decoded.append(len(clips))
    return encode(self, clips)

ClipDecoder.encode = counted
main({argv!r})
"""


@pytest.mark.parametrize("last", [1, 2, 3, 7, 20])
def test_results_are_written_as_they_are_ready(interpreter, recognizer, tmp_path, last):
    """Killed in the middle of a batch, all that was decoded before it has its results, whatever the lengths are."""
    talks = tmp_path / "talks"
    talks.mkdir()
    for number in range(80):
        write_speechlike(talks / f"{number:02}.wav", (1.0, 3.9, 0.5)[number % 3], seed=number)
    (talks / "00.wav").write_bytes(b"RIFF")
    out = tmp_path / "out"
    argv = ["transcribe", str(talks), "-m", recognizer, "-o", str(out), "--batch-seconds", "4", "-q", "-l", "eng"]
    found = interpreter.run(KILLED_IN_A_BATCH.format(argv=argv, last=last))
    assert found.returncode == -signal.SIGKILL
    written = list(out.rglob("*.txt"))
    assert len(written) == int(found.stdout) > 0
    assert all(path.read_text() for path in written)
    assert main([*argv, "--skip-existing"]) == 1  # of the one that is no recording
    assert len(list(out.rglob("*.txt"))) == 79


def test_what_goes_to_stdout_is_in_order_and_leaves_at_once(interpreter, recognizer, tmp_path):
    files = [str(write_speechlike(tmp_path / f"{i}.wav", seconds, seed=i)) for i, seconds in enumerate((1, 3.9, 1))]
    argv = ["transcribe", *files, "-m", recognizer, "--batch-seconds", "4", "-q", "-l", "eng"]
    found = interpreter.run(KILLED_IN_A_BATCH.format(argv=argv, last=1))
    assert found.stdout.splitlines()[0].startswith(files[0].encode())
    found = interpreter.speechnar(*argv)
    assert [line.partition(b": ")[0].decode() for line in found.stdout.splitlines()] == files


def test_a_result_that_cannot_be_written_does_not_end_the_others(recognizer, capsys, tmp_path):
    files = [str(write_speechlike(tmp_path / name, 1.0)) for name in ("talk.wav", "walk.wav")]
    (tmp_path / "talk.txt").mkdir()
    assert main(["transcribe", *files, "-m", recognizer, "-o", str(tmp_path), "-q"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"speechnar: {files[0]}: ")
    assert (tmp_path / "walk.txt").read_text()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_full_disk_behind_stdout_is_one_line(interpreter, recognizer, wav):
    code = "import os, sys; os.dup2(os.open('/dev/full', os.O_WRONLY), 1); from speechnar.cli.main import main;"
    found = interpreter.run(f"{code} sys.exit(main(['transcribe', {wav!r}, '-m', {recognizer!r}, '-q']))")
    assert (found.returncode, found.stderr) == (1, b"speechnar: [Errno 28] No space left on device: 'stdout'\n")


def test_streams_that_are_closed_lead_nowhere(recognizer, wav, monkeypatch):
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(sys, "stderr", None)
    assert main(["transcribe", wav, "-m", recognizer]) == 0
    assert main(["transcribe", f"{wav}.none", "-m", recognizer]) == 1


def test_text_that_is_no_unicode_is_named(recognizer, wav, capsys):
    for argv in (["align", wav, "--text", "a \udcff b"], ["transcribe", wav, "--hotwords", "a \udcff b"]):
        assert main([*argv, "-m", recognizer]) == 2
        assert "must be UTF-8" in capsys.readouterr().err


def test_translate(recognizer, wav, capsys):
    assert main(["translate", wav, "--to", "de", "-m", recognizer, "-f", "json"]) == 0
    expected = json.loads(capsys.readouterr().out)
    assert expected["task"] == "translate"
    assert main(["translate", "-m", recognizer, "--to", "de", "-f", "json", wav]) == 0
    assert json.loads(capsys.readouterr().out) == expected


def test_detect_language(recognizer, wav, tmp_path, capsys):
    assert main(["detect-language", wav, "-m", recognizer]) == 0
    assert capsys.readouterr().out == "und 0.0000\n"  # these are tones
    wav = str(tmp_path / "speech.wav")
    soundfile.write(wav, vowels(2.0), RATE)
    assert main(["detect-language", wav, "-m", recognizer]) == 0
    language, probability = capsys.readouterr().out.split()
    assert language in LANGUAGES
    assert 0 < float(probability) <= 1
    assert main(["detect-language", wav, "/no/such.wav", "-m", recognizer, "-f", "json"]) == 1
    out, err = capsys.readouterr()
    assert json.loads(out) == {"file": wav, "language": language, "probability": float(probability)}
    assert "speechnar: /no/such.wav: " in err


def test_align(recognizer, wav, capsys):
    assert main(["align", wav, "--text", "the cat sat", "-m", recognizer]) == 0
    rows = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert [row[2] for row in rows] == ["the", "cat", "sat"]
    assert main(["align", wav, "--text", "the cat sat", "-m", recognizer, "-f", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["text"] == "the cat sat"


# Mistakes.


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
        (["--lm-weight", "1"], "has no effect without lm"),
    ],
)
def test_options_that_cannot_be(recognizer, wav, capsys, argv, says):
    argv = [arg.format(wav=wav) for arg in argv]
    assert main(["transcribe", wav, "-m", recognizer, *argv]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("speechnar: ")
    assert err.count("\n") == 1
    assert says in err


# Data directories.


def test_decode_then_score(recognizer, data_dir, tmp_path, capsys):
    hyp = tmp_path / "exp" / "hyp"
    assert main(["decode", recognizer, str(data_dir), str(hyp)]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert (summary["utterances"], summary["failed"], summary["audio_s"]) == (3, 0, 6.0)
    assert summary["rtf"] == pytest.approx(summary["wall_s"] / 6.0)
    lines = hyp.read_text().splitlines()
    assert [line.split(" ")[0] for line in lines] == ["utt-0", "utt-1", "utt-2"]
    entries = [json.loads(line) for line in Path(f"{hyp}.jsonl").read_text().splitlines()]
    alone = Transcriber.load(recognizer).transcribe(str(tmp_path / "1.wav"))
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


def test_decode_with_given_languages_and_task(recognizer, data_dir, tmp_path, capsys):
    hyp = tmp_path / "hyp"
    assert main(["decode", recognizer, str(data_dir), str(hyp), "--task", "st_deu", "--language", "given"]) == 0
    entries = [json.loads(line) for line in Path(f"{hyp}.jsonl").read_text().splitlines()]
    assert [entry["language"] for entry in entries] == ["eng", "deu", "eng"]
    assert {entry["task"] for entry in entries} == {"st_deu"}
    capsys.readouterr()
    assert main(["score", str(data_dir), str(hyp), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["lid"] is None  # nothing was detected
    assert main(["decode", recognizer, str(data_dir), str(hyp), "--task", "sing"]) == 2


def test_decode_goes_on_after_a_bad_utterance(recognizer, data_dir, tmp_path, capsys):
    (tmp_path / "1.wav").write_bytes((tmp_path / "1.wav").read_bytes()[:30])
    hyp = tmp_path / "hyp"
    assert main(["decode", recognizer, str(data_dir), str(hyp)]) == 1
    out, err = capsys.readouterr()
    assert json.loads(out)["failed"] == 1
    assert "utt-1" in err
    lines = hyp.read_text().splitlines()
    assert lines[1] == "utt-1"
    assert len(lines[2].split()) > 1


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--skip-existing"], "-o DIR"),
        (["--engine", "local", "-o", "out", "--skip-existing"], "goes on by its journal"),
        (["--engine", "local", "-o", "out", "--max-lines", "1"], "leave --skip-existing"),
    ],
)
def test_options_without_effect_are_errors(recognizer, wav, capsys, options, says):
    assert main(["transcribe", wav, "-m", recognizer, "-f", "srt", *options]) == 2
    assert says in capsys.readouterr().err
