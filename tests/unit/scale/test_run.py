"""A corpus on one machine: each item once, whatever ends the program."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import soundfile

from speechnar import Transcriber
from speechnar.cli.main import main
from speechnar.data.corpus import read_corpus
from speechnar.errors import ConfigError, SpeechnarError
from speechnar.scale.journal import FAILURES, JOURNAL, REPORT
from speechnar.scale.run import run_job
from speechnar.scale.transcribing import TranscribingJob, UnitTranscriber
from tests.unit.tiny import RATE, save_tiny_model, speechlike


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return str(save_tiny_model(tmp_path_factory.mktemp("scale") / "model"))


def write_corpus(folder, number, *, seconds=0.4):
    """Write a Kaldi directory of short sounds, each of another colour."""
    folder.mkdir()
    sound = speechlike(20.0)
    lines = []
    for index in range(number):
        begin = index * 97 % (len(sound) - RATE)
        length = round((seconds + index % 7 / 20) * RATE)
        soundfile.write(folder / f"{index:05d}.wav", sound[begin : begin + length], RATE)
        lines.append(f"utt{index:05d} {folder / f'{index:05d}.wav'}\n")
    (folder / "wav.scp").write_text("".join(lines))
    return folder


def job(model, out, **changes):
    return TranscribingJob(model=model, out=out, device="cpu", precision="fp32", threads=1, **changes)


def texts_of(out):
    """Return the texts by id; an id that stands in two parts fails."""
    rows = [json.loads(line) for path in sorted(out.glob("part-*.jsonl")) for line in path.read_text().splitlines()]
    texts = {row["utt_id"]: row["text"] for row in rows}
    assert len(texts) == len(rows)
    return texts


def test_texts_are_those_of_the_transcriber(model, tmp_path):
    items = read_corpus([write_corpus(tmp_path / "corpus", 12)])
    report = run_job(job(model, tmp_path / "out"), items, unit_seconds=2.0)
    assert (report.done, report.done_now, report.failed) == (12, 12, {})
    transcriber = Transcriber.load(model, device="cpu", precision="fp32")
    assert texts_of(tmp_path / "out") == {item.utt_id: transcriber.transcribe(str(item.path)).text for item in items}
    again = run_job(job(model, tmp_path / "out"), items, unit_seconds=2.0)
    assert (again.done, again.done_now) == (12, 0)


def test_more_of_a_corpus_may_come(model, tmp_path):
    items = read_corpus([write_corpus(tmp_path / "corpus", 9)])
    run_job(job(model, tmp_path / "out"), items[3:], unit_seconds=1.0)
    report = run_job(job(model, tmp_path / "out"), items, unit_seconds=1.5)
    assert (report.done, report.done_now) == (9, 3)
    assert len(texts_of(tmp_path / "out")) == 9


def test_what_was_written_but_not_journalled_does_not_stay(model, tmp_path, monkeypatch):
    items = read_corpus([write_corpus(tmp_path / "corpus", 6)])
    real, calls = UnitTranscriber.__call__, []

    def killed(self, unit):
        report = real(self, unit)
        calls.append(unit)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return report

    monkeypatch.setattr(UnitTranscriber, "__call__", killed)
    with pytest.raises(KeyboardInterrupt):
        run_job(job(model, tmp_path / "out"), items, unit_seconds=1.0)
    monkeypatch.undo()
    assert len(list((tmp_path / "out").glob("part-*"))) == 2
    report = run_job(job(model, tmp_path / "out"), items, unit_seconds=9.0)
    assert report.done == 6
    assert len(texts_of(tmp_path / "out")) == 6


@pytest.mark.slow  # two programs that import torch
def test_killed_anywhere_it_goes_on(model, tmp_path):
    corpus = write_corpus(tmp_path / "corpus", 60)
    command = [sys.executable, "-m", "speechnar", "transcribe", str(corpus), "-m", model, "-f", "jsonl", "-q",
               "-o", str(tmp_path / "out"), "--threads", "1", "--precision", "fp32"]  # fmt: skip
    code = "import speechnar.scale.units as u; u.UNIT_ITEMS = 2; u.group.__kwdefaults__['count'] = 2; "
    code += "import sys; from speechnar.cli.main import main; sys.exit(main(sys.argv[1:]))"
    first = subprocess.Popen([sys.executable, "-c", code, *command[3:]])
    journal = tmp_path / "out" / JOURNAL
    while not (journal.is_file() and journal.read_bytes().count(b"\n") >= 3):
        assert first.poll() is None
        time.sleep(0.01)
    first.send_signal(signal.SIGKILL)
    first.wait()
    done = journal.read_bytes().count(b"\n")
    assert done < 30
    assert subprocess.run([sys.executable, "-c", code, *command[3:]], check=False).returncode == 0
    assert len(texts_of(tmp_path / "out")) == 60
    assert json.loads((tmp_path / "out" / REPORT).read_text())["done_now"] == 60 - 2 * done


def test_forty_percent_of_bad_data(model, tmp_path):
    corpus = write_corpus(tmp_path / "corpus", 30)
    paths = sorted(corpus.glob("*.wav"))
    good = {f"utt{path.stem}": soundfile.read(path)[0] for path in paths}
    soundfile.write(paths[0], np.zeros(RATE // 2), RATE)
    soundfile.write(paths[3], np.zeros(0), RATE)
    soundfile.write(paths[6], np.full(RATE, np.nan), RATE, subtype="FLOAT")
    soundfile.write(paths[9], np.zeros(RATE * 3), RATE)
    paths[12].write_bytes(b"")
    paths[15].write_bytes(np.random.default_rng(0).bytes(5000))
    paths[18].unlink()
    paths[21].write_bytes(paths[22].read_bytes())
    paths[24].write_bytes(paths[25].read_bytes()[:20])
    paths[27].unlink()
    paths[27].mkdir()
    lines = (corpus / "wav.scp").read_text()
    (corpus / "wav.scp").write_text(lines + f"utt00001 {paths[1]}\nutt00002 {paths[5]}\n")
    report = run_job(job(model, tmp_path / "out", max_seconds=2.5), read_corpus([corpus]), unit_seconds=3.0)
    assert report.listed == 32
    assert report.failed == {"empty": 2, "not finite": 1, "too long": 1, "unreadable": 4, "duplicate": 2}
    assert report.odd == {"silent": 1, "same sound": 1}
    assert report.done == 22
    failures = [json.loads(line) for line in (tmp_path / "out" / FAILURES).read_text().splitlines()]
    assert len(failures) == report.num_failed == 10
    assert all(failure["reason"] for failure in failures)
    # The rest says what it says without bad neighbours.
    transcriber = Transcriber.load(model, device="cpu", precision="fp32")
    texts = texts_of(tmp_path / "out")
    for index in (1, 2, 4, 29):
        sound = np.round(good[f"utt{index:05d}"] * 32768).astype(np.int16)
        assert texts[f"utt{index:05d}"] == transcriber.transcribe(sound, sample_rate=RATE).text
    # Nothing is tried again unless asked for.
    paths[12].write_bytes(paths[13].read_bytes())
    assert run_job(job(model, tmp_path / "out", max_seconds=2.5), read_corpus([corpus])).done_now == 0
    again = run_job(job(model, tmp_path / "out", max_seconds=2.5), read_corpus([corpus]), retry_failed=True)
    assert (again.done_now, again.done) == (1, 23)
    assert len(texts_of(tmp_path / "out")) == 23


@pytest.mark.skipif(os.name != "posix", reason="limits of file sizes are of POSIX")
@pytest.mark.slow  # a program of its own, as the limit is one of a process
def test_a_full_disk_leaves_no_half_result(model, tmp_path):
    corpus = write_corpus(tmp_path / "corpus", 40)
    code = "import resource, signal, sys; from speechnar.cli.main import main; "
    code += "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); "
    code += "resource.setrlimit(resource.RLIMIT_FSIZE, (4000, 4000)); sys.exit(main(sys.argv[1:]))"
    arguments = ["transcribe", str(corpus), "-m", model, "-f", "jsonl", "-o", str(tmp_path / "out"), "--threads", "1"]
    run = subprocess.run([sys.executable, "-c", code, *arguments], check=False, capture_output=True, text=True)
    assert run.returncode == 1
    assert "cannot be written" in run.stderr
    assert not list((tmp_path / "out").glob("part-*"))
    assert not list((tmp_path / "out").glob(".speechnar-*"))
    assert main([*arguments, "-q"]) == 0
    assert len(texts_of(tmp_path / "out")) == 40


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_may_not_be_written(model, tmp_path):
    items = read_corpus([write_corpus(tmp_path / "corpus", 1)])
    (tmp_path / "out").mkdir(mode=0o500)
    with pytest.raises(SpeechnarError, match="cannot be written"):
        run_job(job(model, tmp_path / "out"), items)


def test_a_library_that_fails_costs_one_recording(model, tmp_path, monkeypatch):
    items = read_corpus([write_corpus(tmp_path / "corpus", 5)])
    real = UnitTranscriber._decode

    def failing(self, unit):
        if any(item.utt_id == "utt00002" for item in unit.items):
            raise RuntimeError("broken kernel")
        return real(self, unit)

    monkeypatch.setattr(UnitTranscriber, "_decode", failing)
    report = run_job(job(model, tmp_path / "out"), items)
    assert (report.done, report.failed) == (4, {"given up": 1})
    monkeypatch.undo()
    assert run_job(job(model, tmp_path / "out"), items).done == 5


def test_another_request_is_refused(model, tmp_path):
    items = read_corpus([write_corpus(tmp_path / "corpus", 2)])
    run_job(job(model, tmp_path / "out"), items)
    with pytest.raises(ConfigError, match="language was 'auto', is 'deu'"):
        run_job(job(model, tmp_path / "out", language="deu"), items)


def test_a_model_that_is_not_there(tmp_path):
    items = read_corpus([write_corpus(tmp_path / "corpus", 1)])
    with pytest.raises(LookupError):
        run_job(job(str(tmp_path / "none"), tmp_path / "out"), items)
