"""Sounds of their own colour, one for each letter, are found where they are."""

import numpy as np
import pytest
import soundfile
import torch

from speechnar.data.kaldi import Utterance, read_kaldi_dir, write_kaldi_dir
from speechnar.text.tokenizer import CharTokenizer
from speechnar.train.align_durations import RATE, STATES, Monophones, main

TOKENIZER = CharTokenizer(("<blank>", "<unk>", "▁", *"abcd"))
TONES = {"a": (300, 2200), "b": (800, 1400), "c": (500, 3500), "d": (1800, 2800)}


def speak(text: str, rng: np.random.Generator) -> tuple[np.ndarray, list[float]]:
    """Return the sound of a text, and the seconds of each token; ``▁`` is silence."""
    parts, seconds = [], []
    for token in TOKENIZER.encode(text):
        letter = TOKENIZER.piece_of(token)
        size = round(rng.uniform(0.04, 0.2) * RATE)
        times = np.arange(size) / RATE
        tones = [np.sin(2 * np.pi * tone * times) for tone in TONES.get(letter, ())]
        parts.append(0.1 * sum(tones, np.zeros(size)) + 1e-3 * rng.standard_normal(size))
        seconds.append(size / RATE)
    return np.concatenate(parts).astype(np.float32), seconds


def make_data(folder, count: int) -> dict[str, list[float]]:
    rng = np.random.default_rng(0)
    truth, utterances = {}, []
    folder.mkdir()
    for number in range(count):
        text = " ".join("".join(rng.choice(list("abcd"), rng.integers(2, 5))) for _ in range(3))
        wav, truth[f"utt{number:02d}"] = speak(text, rng)
        path = folder / f"utt{number:02d}.wav"
        soundfile.write(path, wav, RATE)
        utterances.append(Utterance(path.stem, path, text, "s", len(wav) / RATE))
    write_kaldi_dir(folder, utterances)
    return truth


def test_durations_are_found_from_a_flat_start(tmp_path):
    truth = make_data(tmp_path / "data", 40)
    TOKENIZER.save(tmp_path / "tokenizer")
    (tmp_path / "data" / "durations").write_text("utt00 99\n")  # of another recording: no hindrance
    assert main([str(tmp_path / "tokenizer"), str(tmp_path / "data")]) == 0
    errors, even = [], []
    for utterance in read_kaldi_dir(tmp_path / "data"):
        expected = np.array(truth[utterance.utt_id])
        assert sum(utterance.durations) == pytest.approx(utterance.duration_s, abs=1e-3)
        errors += list(np.abs(np.array(utterance.durations) - expected))
        even += list(np.abs(expected.mean() - expected))
    assert np.median(errors) < 0.02
    assert np.mean(errors) < 0.5 * np.mean(even)


def test_what_is_too_short_is_left_out(tmp_path, capsys, caplog):
    make_data(tmp_path / "data", 3)
    TOKENIZER.save(tmp_path / "tokenizer")
    utterances = read_kaldi_dir(tmp_path / "data")
    path = tmp_path / "data" / "short.wav"
    soundfile.write(path, np.zeros(800, np.float32), RATE)
    write_kaldi_dir(tmp_path / "data", [*utterances, Utterance("short", path, "abcd abcd", "s", 0.05)])
    with caplog.at_level("WARNING"):
        assert main([str(tmp_path / "tokenizer"), str(tmp_path / "data")]) == 0
    assert "1 of 4 utterances have no text or are too short for it" in caplog.text
    untimed = [utterance.utt_id for utterance in read_kaldi_dir(tmp_path / "data") if utterance.durations is None]
    assert untimed == ["short"]
    write_kaldi_dir(tmp_path / "data", [Utterance("short", path, "abcd abcd", "s", 0.05)])
    assert main([str(tmp_path / "tokenizer"), str(tmp_path / "data")]) == 1
    assert "error: no utterance can be aligned" in capsys.readouterr().err


def test_a_density_is_that_of_a_mixture_of_normals():
    model = Monophones(TOKENIZER)
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(1, model.num_states, (4000,), generator=generator)
    feats = torch.randn(4000, 3, generator=generator) * 2 + labels[:, None]
    model.fit([(feats, labels)])
    model.split()
    model.fit([(feats, labels)])
    x = feats[:5]
    found = model.score(x)
    assert (found[:, 0] == -torch.inf).all()
    state = 1 + STATES * 3
    components = torch.distributions.Independent(
        torch.distributions.Normal(model.means[state], model.variances[state].sqrt()), 1
    )
    mixture = torch.distributions.MixtureSameFamily(torch.distributions.Categorical(model.weights[state]), components)
    torch.testing.assert_close(found[:, state], mixture.log_prob(x), atol=1e-3, rtol=1e-4)


def test_sounds_have_two_states_and_silences_one():
    states, owners = Monophones(TOKENIZER).states_of(TOKENIZER.encode("a b"))
    assert owners.tolist() == [0, 0, 1, 2, 2]
    assert len(set(states.tolist())) == 5
