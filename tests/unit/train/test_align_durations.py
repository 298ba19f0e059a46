"""Sounds of their own colour, one for each letter, are found where they are."""

import numpy as np
import pytest
import soundfile
import torch

from speechnar.cli.main import main
from speechnar.data.kaldi import Utterance, read_kaldi_dir, write_kaldi_dir
from speechnar.models.base import load_model
from tests.unit.models.sounds import LETTERS, RATE, spell


def make_data(folder, count: int) -> dict[str, list[float]]:
    rng = np.random.default_rng(0)
    truth, utterances = {}, []
    folder.mkdir()
    for number in range(count):
        text = " ".join("".join(rng.choice(list("abcd"), rng.integers(2, 5))) for _ in range(3))
        wav, truth[f"utt{number:02d}"] = spell(text, rng)
        path = folder / f"utt{number:02d}.wav"
        soundfile.write(path, wav, RATE)
        utterances.append(Utterance(path.stem, path, text, "s", len(wav) / RATE))
    write_kaldi_dir(folder, utterances)
    return truth


def test_durations_are_found_from_a_flat_start(tmp_path):
    truth = make_data(tmp_path / "data", 40)
    LETTERS.save(tmp_path / "tokenizer")
    (tmp_path / "data" / "durations").write_text("utt00 99\n")  # of another recording: no hindrance
    assert (
        main(
            [
                "data",
                "durations",
                str(tmp_path / "tokenizer"),
                str(tmp_path / "data"),
                "--aligner",
                str(tmp_path / "aligner"),
            ]
        )
        == 0
    )
    errors, even = [], []
    for utterance in read_kaldi_dir(tmp_path / "data"):
        expected = np.array(truth[utterance.utt_id])
        assert sum(utterance.durations) == pytest.approx(utterance.duration_s, abs=1e-3)
        errors += list(np.abs(np.array(utterance.durations) - expected))
        even += list(np.abs(expected.mean() - expected))
    assert np.median(errors) < 0.02
    assert np.mean(errors) < 0.5 * np.mean(even)
    kept = load_model(tmp_path / "aligner").model
    wav, expected = spell("dab cab bad", np.random.default_rng(1))  # unheard before
    found = kept.durations(torch.from_numpy(wav), LETTERS.encode("dab cab bad"))
    assert np.median(np.abs(np.array(found) - expected)) < 0.02


def test_what_is_too_short_is_left_out(tmp_path, capsys):
    make_data(tmp_path / "data", 3)
    LETTERS.save(tmp_path / "tokenizer")
    utterances = read_kaldi_dir(tmp_path / "data")
    path = tmp_path / "data" / "short.wav"
    soundfile.write(path, np.zeros(800, np.float32), RATE)
    write_kaldi_dir(tmp_path / "data", [*utterances, Utterance("short", path, "abcd abcd", "s", 0.05)])
    assert main(["data", "durations", str(tmp_path / "tokenizer"), str(tmp_path / "data")]) == 0
    assert "1 of 4 utterances have no text or are too short for it" in capsys.readouterr().err
    untimed = [utterance.utt_id for utterance in read_kaldi_dir(tmp_path / "data") if utterance.durations is None]
    assert untimed == ["short"]
    write_kaldi_dir(tmp_path / "data", [Utterance("short", path, "abcd abcd", "s", 0.05)])
    assert main(["data", "durations", str(tmp_path / "tokenizer"), str(tmp_path / "data")]) == 1
    assert "speechnar: no utterance can be aligned" in capsys.readouterr().err
