from dataclasses import replace

import pytest
import torch

from speechnar.errors import DataError
from speechnar.models.base import load_model, save_model
from speechnar.models.judges.sound_classifier import SoundClassifier, SoundClassifierConfig
from tests.contracts import check_gradients_reach_all
from tests.unit.models.generators import WORDS
from tests.unit.models.sounds import voice, voices

SIZES = [8000, 5000, 900]
DOG, CAT, BARKS = 2, 3, 4


def make_model(**changes) -> SoundClassifier:
    torch.manual_seed(0)
    return SoundClassifier(SoundClassifierConfig.debug().model_copy(update=changes), WORDS).eval()


def told(batch, *rows):
    lens = torch.tensor([len(row) for row in rows])
    tokens = torch.full((len(rows), int(lens.max())), 10**6)  # padding may be anything
    for ids, row in zip(tokens, rows, strict=True):
        ids[: len(row)] = torch.tensor(row)
    return replace(batch, tokens=tokens, token_lens=lens)


def animals(seed):
    """Return sounds of two kinds, at several places and levels, a "dog" and a "cat" in turn."""
    generator = torch.Generator().manual_seed(seed)
    rows = []
    for i in range(8):
        start, level = torch.rand(2, generator=generator).tolist()
        wav = voice(16000, pitch_hz=(110 if i % 2 else 210) * (1 + 0.05 * start), formant_hz=450 if i % 2 else 800)
        rows.append((0.3 + level) * wav[int(8000 * start) :][:8000])
    return told(replace(voices([8000] * 8), wav=torch.stack(rows)), *[[DOG], [CAT]] * 4)


@torch.no_grad()
def test_an_utterance_is_the_same_in_any_batch_and_at_any_level():
    model = make_model()
    batch = voices(SIZES, padding=torch.nan)
    found, embedded = model(batch.wav, batch.wav_lens), model.embed(batch.wav, batch.wav_lens)
    assert found.shape == (3, WORDS.vocab_size)
    assert embedded.shape == (3, 8)
    for i, size in enumerate(SIZES):
        alone = model(batch.wav[i : i + 1, :size], torch.tensor([size]))
        torch.testing.assert_close(found[i : i + 1], alone, atol=2e-5, rtol=1e-4)
    wav, lens = 50 * voices([16000]).wav, torch.tensor([16000])  # far above the floor of the logarithm
    torch.testing.assert_close(model(0.5 * wav, lens), model(wav, lens), atol=1e-4, rtol=0)


@torch.no_grad()
def test_the_loss_is_that_of_equal_shares():
    model = make_model()
    batch = told(voices(SIZES), [DOG], [CAT, BARKS], [CAT])
    log_probs = model(batch.wav, batch.wav_lens).log_softmax(1)
    expected = -(log_probs[0, DOG] + (log_probs[1, CAT] + log_probs[1, BARKS]) / 2 + log_probs[2, CAT]) / 3
    found = model.loss(batch)
    torch.testing.assert_close(found.total, expected)
    best = log_probs.argmax(1).tolist()
    wrong = (best[0] != DOG) + (best[1] not in (CAT, BARKS)) + (best[2] != CAT)
    assert float(found.parts["wrong"]) == pytest.approx(wrong / 3)
    with pytest.raises(DataError, match="utterance 'voice1': no word is told of it"):
        model.loss(told(voices(SIZES), [DOG], [], [CAT]))
    with pytest.raises(DataError, match="8000"):
        model.loss(replace(batch, sample_rate=8000))


def test_gradients_reach_all_weights():
    model = make_model(segment_frames=20).train()
    check_gradients_reach_all(model, model.loss(animals(0)).total)


def test_it_learns_to_tell_sounds_apart(tmp_path):
    model = make_model().train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for step in range(40):
        optimizer.zero_grad()
        model.loss(animals(step % 5)).total.backward()
        optimizer.step()
    model.eval()
    with torch.no_grad():
        assert float(model.loss(animals(99)).parts["wrong"]) == 0
    save_model(tmp_path / "judge", model, WORDS)
    loaded = load_model(tmp_path / "judge").model
    batch = animals(99)
    torch.testing.assert_close(loaded(batch.wav, batch.wav_lens), model(batch.wav, batch.wav_lens))
