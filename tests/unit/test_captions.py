"""Captions: their final texts are the transcript, and each update fits the one before."""

import io
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from speechnar.asr.transcriber import Transcriber
from speechnar.audio.io import pcm_blocks, to_int16
from speechnar.captions import CaptionStream
from speechnar.cli import main as cli
from speechnar.cli.main import main
from speechnar.errors import ConfigError
from speechnar.models.base import save_model
from speechnar.models.mt.fretna_ctc import FretnaCtc, FretnaCtcConfig
from speechnar.models.mt.wait_k import WaitK, WaitKConfig
from speechnar.mt.translator import Translator
from speechnar.text.tokenizer import CharTokenizer
from tests.unit.tiny import RATE, save_tiny_model, vowels

ROOT = Path(cli.__file__).parents[2]
TOKENIZER = CharTokenizer(("<blank>", "<unk>", "▁", *"abcdefghijklmnopqrstuvwxyz", "<sop>", "<sos>", "<eos>"))
KINDS = {"fretna_ctc": (FretnaCtc, FretnaCtcConfig), "wait_k": (WaitK, WaitKConfig)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("models")
    save_tiny_model(root / "asr")
    for kind, (model_cls, config_cls) in KINDS.items():
        torch.manual_seed(3)
        save_model(
            root / kind,
            model_cls.from_config(config_cls.debug(), TOKENIZER),
            TOKENIZER,
            card="---\nsource: eng\ntarget: deu\n---\n",
        )
    silence = np.zeros(RATE, dtype=np.float32)
    wav = np.concatenate([silence[:8000], vowels(2.5), silence, vowels(1.5, seed=1)])
    soundfile.write(root / "talk.wav", wav, RATE)
    return root


@pytest.fixture(scope="module")
def transcriber(folder) -> Transcriber:
    return Transcriber.load(folder / "asr", device="cpu")


@pytest.fixture(scope="module")
def wav(folder) -> np.ndarray:
    samples, _ = soundfile.read(folder / "talk.wav", dtype="float32")
    return samples


def captions(stream, wav, size=4000):
    updates = [update for begin in range(0, len(wav), size) for update in stream.push(wav[begin : begin + size])]
    return [*updates, *stream.finish()]


def test_final_captions_are_the_transcript(transcriber, folder, wav):
    translator = Translator.load(folder / "fretna_ctc", device="cpu")
    stream = CaptionStream(transcriber.stream(language="eng"), translator.stream(target="de"))
    with pytest.raises(ConfigError, match="finish"):
        _ = stream.transcript
    updates = captions(stream, wav)
    assert stream.finish() == ()
    plain = transcriber.stream(language="eng")
    plain.push(wav)
    assert stream.transcript == plain.finish()
    finals = [update for update in updates if update.is_final]
    assert " ".join(update.text for update in finals) == stream.transcript.text
    assert len(finals) == 2 and len(updates) > 6
    for update in finals:
        assert update.translation.is_final
        assert update.translation.text == translator.translate(update.text).text
    for shown_of in (lambda update: update, lambda update: update.translation):
        before: list[str] = []
        for update in updates:
            shown = shown_of(update)
            words, stable = shown.text.split(), shown.stable.split()
            assert stable == before[: len(stable)] == words[: len(stable)]
            assert shown.erased == len(before) - len(stable)
            before = [] if update.is_final else words
    assert any(update.erased for update in updates)


def test_transcripts_alone_and_silence(transcriber, wav):
    updates = captions(CaptionStream(transcriber.stream(language="eng")), wav, size=len(wav))
    assert [update.translation for update in updates] == [None] * len(updates)
    assert updates[-1].is_final
    assert captions(CaptionStream(transcriber.stream()), np.zeros(RATE, dtype=np.float32)) == []


def test_wait_k_cannot_follow(transcriber, folder):
    stream = Translator.load(folder / "wait_k", device="cpu").stream()
    with pytest.raises(ConfigError, match="take another translator"):
        CaptionStream(transcriber.stream(), stream)
    with pytest.raises(ConfigError, match="not by wait-k"):
        stream.revise("ab")


def test_a_source_is_revised(folder):
    translator = Translator.load(folder / "fretna_ctc", device="cpu")
    stream = translator.stream()
    first = stream.revise("ab cd e")
    assert stream.revise("ab") != first
    assert stream.revise("").text == ""
    with pytest.raises(ConfigError, match="may have up to"):
        stream.revise("a" * 500)
    assert not stream.fits("a" * 500) and stream.fits("a" * 300)
    last = stream.revise("x yz", is_final=True)
    assert last.is_final and last.text == translator.translate("x yz").text
    with pytest.raises(ConfigError, match="before it is finished"):
        stream.revise("x")


def test_an_utterance_too_long_to_translate_loses_its_end(transcriber, folder, caplog):
    translator = Translator.load(folder / "fretna_ctc", device="cpu")
    stream = CaptionStream(transcriber.stream(), translator.stream())
    update = stream._update(["abcd"] * 100, is_final=True)
    assert len(update.text.split()) == 100
    assert update.translation.num_read == 50
    assert "its end is left out" in caplog.text


def test_a_word_too_long_to_translate_is_left_out(transcriber, folder, caplog):
    translator = Translator.load(folder / "fretna_ctc", device="cpu")
    stream = CaptionStream(transcriber.stream(), translator.stream())
    update = stream._update(["a" * 10_000], is_final=True)
    assert (len(update.text), update.translation.text) == (10_000, "")
    assert "its end is left out" in caplog.text


def test_what_the_translator_cannot_read_stays_as_it_is(transcriber, folder):
    stream = CaptionStream(transcriber.stream(), Translator.load(folder / "fretna_ctc", device="cpu").stream())
    assert stream._update(["Привет"], is_final=False).translation.text == "Привет"
    update = stream._update(["Привет", "мир"], is_final=True)
    assert (update.translation.stable, update.translation.unstable) == ("Привет", "мир")


@pytest.mark.parametrize("size", [3999, 4001])
def test_speech_cut_within_a_word_is_captioned_to_its_end(transcriber, wav, size):
    cut = wav[: len(wav) - RATE // 2 - 123]
    stream = CaptionStream(transcriber.stream(language="eng"))
    updates = captions(stream, cut, size)
    plain = transcriber.stream(language="eng")
    plain.push(cut)
    assert stream.transcript == plain.finish() and updates[-1].is_final
    assert updates[-1].text.split()[-1] == stream.transcript.text.split()[-1]


def test_pcm_in_blocks(tmp_path):
    samples = np.array([0.5, -1.0, 0.25, 0.0, 0.125], dtype=np.float32)
    path = tmp_path / "raw"
    path.write_bytes(to_int16(samples).astype("<i2").tobytes() + b"\x01")
    with path.open("rb") as file:
        blocks = list(pcm_blocks(file, 2))
    assert [len(block) for block in blocks] == [2, 2, 1]
    np.testing.assert_array_equal(np.concatenate(blocks), samples)


def test_the_command(folder, transcriber, capsys):
    argv = ["caption", str(folder / "talk.wav"), "-m", str(folder / "asr"), "-d", "cpu", "-l", "eng", "--chunk", "0.5"]
    assert main([*argv, "--to", "de", "--translator", str(folder / "fretna_ctc"), "--json", "-q"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    spoken = transcriber.stream(language="eng")
    spoken.push(soundfile.read(folder / "talk.wav", dtype="float32")[0])
    assert " ".join(row["text"] for row in rows if row["is_final"]) == spoken.finish().text
    assert rows[-1]["translation"]["text"] and rows[-1]["is_final"]
    assert main(argv) == 0
    out, err = capsys.readouterr()
    assert out.splitlines() == [f"{row['stable']}\t{row['unstable']}" for row in rows]
    assert "times real time" in err


@pytest.mark.parametrize("raw", [b"", b"\x01", bytes(2 * RATE + 1)])
def test_stdin_without_speech_gives_no_captions(folder, raw, monkeypatch, capsys):
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(raw)))
    argv = ["caption", "-", "-m", str(folder / "asr"), "-d", "cpu"]
    assert main([*argv, "--to", "de", "--translator", str(folder / "fretna_ctc")]) == 0
    out, err = capsys.readouterr()
    assert out == "" and "s of audio" in err


@pytest.mark.parametrize(
    ("content", "says"), [(None, "does not exist"), (b"", "is empty"), (b"\x00no audio\x1b[31m", "")]
)
def test_files_that_are_no_audio(folder, tmp_path, content, says, capsys):
    path = tmp_path / "talk.wav"
    if content is not None:
        path.write_bytes(content)
    assert main(["caption", str(path), "-m", str(folder / "asr"), "-d", "cpu"]) == 1
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and err.startswith(f"speechnar: {path}: ") and says in err


@pytest.mark.slow
def test_raw_samples_on_stdin(folder, wav, capsys):
    argv = ["caption", "-m", str(folder / "asr"), "-d", "cpu", "-l", "eng", "--json", "-q"]
    assert main([*argv, str(folder / "talk.wav")]) == 0
    raw = to_int16(wav).astype("<i2").tobytes()
    command = [sys.executable, "-m", "speechnar", *argv, "-", "--sample-rate", str(RATE)]
    found = subprocess.run(command, input=raw, capture_output=True, cwd=ROOT, check=True)
    assert found.stdout.decode() == capsys.readouterr().out


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["--chunk", "0"], "--chunk must be"),
        (["--translator", "x"], "--to LANG"),
        (["--sample-rate", "8000"], "leave that out"),
    ],
)
def test_mistakes(folder, argv, says, capsys):
    assert main(["caption", str(folder / "talk.wav"), "-m", str(folder / "asr"), *argv]) == 2
    out, err = capsys.readouterr()
    assert out == "" and says in err
