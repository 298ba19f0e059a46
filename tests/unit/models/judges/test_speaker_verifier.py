import math
from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from speechnar.audio.augment import SpecAugmentConfig
from speechnar.config import parse_config
from speechnar.errors import ConfigError, DataError
from speechnar.models.base import load_model, save_model
from speechnar.models.judges.speaker_verifier import SpeakerVerifier, SpeakerVerifierConfig, draw_pieces
from speechnar.text.tokenizer import CharTokenizer
from tests.contracts import check_gradients_reach_all
from tests.unit.models.sounds import voice, voices

SIZES = [8000, 5000, 900]


def make_model(**changes) -> SpeakerVerifier:
    torch.manual_seed(0)
    return SpeakerVerifier(SpeakerVerifierConfig.debug().model_copy(update=changes)).eval()


def spoken(sizes, speakers, **options):
    return replace(voices(sizes, **options), speakers=speakers)


def two_speakers(seed):
    """Return pieces of two pitches and vocal tracts, each at several places and levels, of ann and bob in turn."""
    generator = torch.Generator().manual_seed(seed)
    rows = []
    for i in range(8):
        ann = i % 2 == 0
        start, level = torch.rand(2, generator=generator).tolist()
        pitch_hz = (210 if ann else 110) * (1 + 0.05 * start)
        wav = voice(16000, pitch_hz=pitch_hz, formant_hz=800 if ann else 450)
        rows.append((0.3 + level) * wav[int(8000 * start) :][:8000])
    batch = voices([8000] * 8)
    return replace(batch, wav=torch.stack(rows), speakers=("ann", "bob") * 4)


@torch.no_grad()
def test_an_utterance_has_the_same_vector_in_any_batch():
    model = make_model()
    batch = voices(SIZES, padding=torch.nan)
    vectors = model(batch.wav, batch.wav_lens)
    torch.testing.assert_close(vectors.norm(dim=1), torch.ones(3))
    for i, size in enumerate(SIZES):
        alone = model(batch.wav[i : i + 1, :size], torch.tensor([size]))
        torch.testing.assert_close(vectors[i : i + 1], alone, atol=2e-5, rtol=1e-4)


@torch.no_grad()
def test_loudness_changes_nothing():
    model = make_model()
    wav, lens = 50 * voices([16000]).wav, torch.tensor([16000])  # far above the floor of the logarithm
    torch.testing.assert_close(model(0.5 * wav, lens), model(wav, lens), atol=1e-4, rtol=0)


@torch.no_grad()
def test_the_loss_is_that_of_the_paper_written_out():
    model = make_model()
    batch = spoken(SIZES, ("bob", "ann", "bob"), padding=torch.nan)
    vectors = model(batch.wav, batch.wav_lens)
    weights = F.normalize(model.speaker_vectors, dim=1)
    expected, wrong = [], 0
    for vector, right in zip(vectors, (1, 0, 1), strict=True):
        cosines = (weights @ vector).tolist()
        above = math.exp(30 * (cosines[right] - 0.2))
        expected.append(-math.log(above / (above + math.exp(30 * cosines[1 - right]))))
        wrong += cosines[1 - right] > cosines[right]
    found = model.loss(batch)
    assert float(found.total) == pytest.approx(sum(expected) / 3, rel=1e-4)
    assert float(found.parts["wrong"]) == pytest.approx(wrong / 3)
    assert float(found.weight) == 3


def test_training_hears_pieces_and_masks_parts_of_them():
    model = make_model().train()
    batch = spoken([16000, 3000], ("ann", "bob"), padding=torch.nan)
    wav, lens = draw_pieces(batch.wav, batch.wav_lens, 50 * 160)
    assert wav.shape == (2, 50 * 160)
    assert lens.tolist() == [8000, 3000]
    torch.testing.assert_close(wav[1, :3000], batch.wav[1, :3000])
    places = batch.wav[0].unfold(0, 8000, 1)
    starts = {int((places == draw_pieces(batch.wav, batch.wav_lens, 8000)[0][0]).all(1).nonzero()) for _ in range(5)}
    assert len(starts) > 1
    assert model.loss(batch).total.isfinite()
    masked = make_model(spec_augment=SpecAugmentConfig(freq_width=40)).train()
    assert not torch.equal(masked(wav, lens), masked(wav, lens))
    assert torch.equal(masked.eval()(wav, lens), masked(wav, lens))


def test_a_single_utterance_can_be_trained_on():
    model = make_model().train()
    assert model.loss(spoken([4000], ("ann",))).total.isfinite()


def test_every_weight_learns():
    model = make_model().train()
    check_gradients_reach_all(model, model.loss(spoken(SIZES, ("bob", "ann", "bob"))).total)


def test_it_learns_to_tell_two_voices_whatever_they_say():
    model = make_model().train()
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for update in range(25):
        optimizer.zero_grad()
        model.loss(two_speakers(seed=update)).total.backward()
        optimizer.step()
    model.eval()
    with torch.no_grad():
        unheard = two_speakers(seed=25)
        assert model.loss(unheard).parts["wrong"] == 0
        vectors = model(unheard.wav, unheard.wav_lens)
    cosines = (vectors @ vectors.T).view(8, 8)
    same = (torch.arange(8)[:, None] - torch.arange(8)) % 2 == 0
    assert cosines[same].mean() > cosines[~same].mean() + 0.5


@pytest.mark.parametrize(("speakers", "named"), [(("ann", "eve"), "'eve'"), ((), "''")])
def test_only_the_speakers_of_the_configuration_can_be_trained_on(speakers, named):
    with pytest.raises(DataError, match=f"one of the 2 in the configuration's speakers, got {named}"):
        make_model().loss(spoken([4000, 4000], speakers))


def test_speech_of_another_rate_is_refused():
    with pytest.raises(DataError, match="16000 samples per second, got 8000"):
        make_model().loss(replace(spoken([4000], ("ann",)), sample_rate=8000))


@pytest.mark.parametrize(
    ("values", "fault"),
    [({"speakers": ["ann", "ann"]}, "named once"), ({"layers": [[4, 1]]}, "odd"), ({"layers": []}, "one at least")],
)
def test_config_refuses_nonsense(values, fault):
    with pytest.raises(ConfigError, match=fault):
        parse_config(values, SpeakerVerifierConfig)


@torch.no_grad()
def test_a_saved_model_gives_the_same_vectors(tmp_path):
    model = make_model()
    save_model(tmp_path / "model", model, CharTokenizer(("<blank>", "<unk>", "a")))
    loaded = load_model(tmp_path / "model")
    assert loaded.config.speakers == ("ann", "bob")
    batch = voices(SIZES)
    assert torch.equal(loaded.model(batch.wav, batch.wav_lens), model(batch.wav, batch.wav_lens))


def test_sizes():
    assert sum(p.numel() for p in make_model().parameters()) < 1e5
    published = SpeakerVerifier(SpeakerVerifierConfig.published())
    assert published.project.out_features == 512
    assert published.layers[-1].conv.out_channels == 1500
    # Each frame sees 15 frames, as in the paper.
    assert 1 + sum(dilation * (kernel_size - 1) for kernel_size, dilation in published.config.layers) == 15
