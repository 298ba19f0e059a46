"""Training letter to sound: the same network in torch and numpy, words set aside by stem, and that it learns."""

import json

import numpy as np
import pytest
import torch

from speechnar.cli.main import main
from speechnar.text.letter_to_sound import (
    FRAMES_PER_LETTER,
    PAD_ID,
    PHONEMES,
    LetterToSound,
    english_letter_to_sound,
    letter_ids,
)
from speechnar.text.lexicon import english, phonemes_of
from speechnar.train import letter_to_sound
from speechnar.train.letter_to_sound import SHARED_LETTERS, LetterNetwork, NetworkConfig, evaluate, split_words, train

SMALL = NetworkConfig(model_dim=32, num_layers=2)
WORDS = ["banana", "cabin", "cab", "ban", "nab", "cannibal", "alibi", "cabana", "bacon", "icon", "canal", "lab"]


def exported(network):
    return LetterToSound({name: tensor.numpy() for name, tensor in network.export().items()})


@pytest.mark.parametrize("word", ["a", "banana", "Mentelin"])
def test_numpy_computes_what_torch_does_whatever_the_padding(word):
    torch.manual_seed(0)
    network = LetterNetwork(SMALL).eval()
    letters = letter_ids(word)
    logits = network(torch.tensor([letters + [PAD_ID] * 7, letters + [PAD_ID] * 7]))[0].detach().numpy()
    ours = exported(network).logits(letters)
    assert ours.shape == (FRAMES_PER_LETTER * len(letters), len(PHONEMES))
    # The weights are rounded to half precision.
    np.testing.assert_allclose(ours, logits[: len(ours)], atol=2e-3)


def test_words_set_aside_share_no_stem_with_those_learned():
    learned, aside = split_words()
    assert len(learned) > 150_000 and 0.03 < len(aside) / len(learned) < 0.07
    assert not {w[:SHARED_LETTERS].lower() for w in learned} & {w[:SHARED_LETTERS].lower() for w in aside}
    assert not any(word.isupper() for word in learned)


def test_the_loss_is_that_of_ctc_per_phoneme():
    torch.manual_seed(0)
    network = LetterNetwork(SMALL, dropout=0.0)
    letters, letter_lens, phonemes, phoneme_lens = letter_to_sound._batches(WORDS, len(WORDS))[0]
    total = 0.0
    for word in WORDS:
        log_probs = network(torch.tensor([letter_ids(word)]))[0].log_softmax(-1)
        target = torch.tensor([PHONEMES.index(p) for p in phonemes_of(english().entries[word])])
        loss = torch.nn.functional.ctc_loss(
            log_probs, target, torch.tensor(len(log_probs)), torch.tensor(len(target)), reduction="sum"
        )
        total += loss.item()
    ours = network.loss(letters, letter_lens, phonemes, phoneme_lens)
    assert ours.item() == pytest.approx(total / int(phoneme_lens.sum()), rel=1e-4)


def test_it_learns_a_dozen_words_by_heart():
    network = train(WORDS, SMALL, num_epochs=100, batch_size=12, lr=1e-2)
    scores = evaluate(exported(network), WORDS)
    assert scores["word_accuracy"] > 0.8 and scores["phoneme_error_rate"] < 0.1


def test_scores_count_phonemes_and_whole_words(monkeypatch):
    heard = {"cat": "kˈæt", "banana": "bənˈænə", "dog": "dˌɔɡ"}
    scores = evaluate(heard.__getitem__, list(heard))
    assert scores["word_accuracy"] == pytest.approx(2 / 3, abs=1e-4) and scores["word_accuracy_without_stress"] == 1
    assert scores["phoneme_error_rate"] == pytest.approx(1 / 12, abs=1e-4)


def test_from_the_command_line(tmp_path, monkeypatch):
    monkeypatch.setattr(letter_to_sound, "split_words", lambda: (WORDS[:8], WORDS[8:]))
    assert main(["tts", "fit-letters", str(tmp_path / "new" / "lts"), "--epochs", "2"]) == 0
    scores = json.loads((tmp_path / "new" / "lts.json").read_text())
    assert scores["num_words"] == 4 and scores["num_training_words"] == 8 and 0 <= scores["word_accuracy"] <= 1
    assert (tmp_path / "new" / "lts.safetensors").stat().st_size < 1_500_000


def test_what_comes_with_the_package_reads_words_it_never_saw():
    _, aside = split_words()
    scores = evaluate(english_letter_to_sound(), aside[::20])
    assert scores["phoneme_error_rate"] < 0.12 and scores["word_accuracy"] > 0.45
