import pytest
import torch

from speechnar.audio.fbank import LogMel, LogMelConfig
from speechnar.audio.griffin_lim import _magnitudes, griffin_lim
from speechnar.errors import ConfigError


def vowel(num_samples: int, sample_rate: int, pitch_hz: float = 150.0) -> torch.Tensor:
    """Return harmonics of a moving pitch under two formants."""
    t = torch.arange(num_samples) / sample_rate
    phase = 2 * torch.pi * pitch_hz * (t + 0.02 * torch.sin(2 * torch.pi * 3 * t))
    wav = torch.zeros(num_samples)
    for harmonic in range(1, 20):
        hz = harmonic * pitch_hz
        wav += torch.sin(harmonic * phase) / (1 + ((hz - 600) / 200) ** 2) / (1 + ((hz - 1200) / 900) ** 2)
    return 0.3 * wav / wav.abs().max()


@pytest.mark.parametrize("sample_rate", [24000, 16000])
def test_the_samples_have_the_features_they_were_made_of(sample_rate):
    frontend = LogMel(LogMelConfig.for_vocoder(sample_rate))
    wav = vowel(sample_rate // 2, sample_rate)[None]
    feats, feat_lens = frontend(wav, torch.tensor([wav.size(1)]))
    found, lens = griffin_lim(feats, feat_lens, frontend)
    hop = frontend.config.hop_length
    assert lens.tolist() == [int(feat_lens) * hop]
    assert found.shape == (1, int(feat_lens) * hop)
    again, again_lens = frontend(found, lens)
    assert torch.equal(again_lens, feat_lens)
    once, _ = griffin_lim(feats, feat_lens, frontend, num_iters=0)

    def error(found_feats: torch.Tensor) -> float:
        return float((found_feats.exp() - feats.exp()).norm() / feats.exp().norm())

    assert error(again) < 0.2
    assert error(again) < 0.5 * error(frontend(once, lens)[0])


def test_bands_are_spread_as_well_as_by_least_squares():
    librosa = pytest.importorskip("librosa")
    frontend = LogMel(LogMelConfig.for_vocoder(16000))
    wav = vowel(3200, 16000)[None]
    feats, _ = frontend(wav, torch.tensor([3200]))
    bands, matrix = feats[0].exp().T, frontend.mel_matrix.T
    found = _magnitudes(feats[0], frontend)
    solved = torch.from_numpy(librosa.util.nnls(matrix.numpy(), bands.numpy()))
    assert (found >= 0).all()
    residuals = [float((matrix @ magnitudes - bands).norm() / bands.norm()) for magnitudes in (found, solved)]
    assert residuals[0] < max(2 * residuals[1], 0.01)


def test_a_click_comes_back_where_it_was():
    frontend = LogMel(LogMelConfig.for_vocoder(16000))
    wav = torch.zeros(1, 4800)
    wav[0, 2000:2010] = 0.5
    feats, feat_lens = frontend(wav, torch.tensor([4800]))
    found, _ = griffin_lim(feats, feat_lens, frontend)
    centre = (found[0].square() * torch.arange(4800)).sum() / found[0].square().sum()
    assert abs(float(centre) - 2005) < 40


def test_an_utterance_is_the_same_in_any_batch():
    frontend = LogMel(LogMelConfig.for_vocoder(16000))
    wav = torch.stack([vowel(3200, 16000), vowel(3200, 16000, 220.0)])
    feats, _ = frontend(wav, torch.tensor([3200, 3200]))
    feat_lens = torch.tensor([20, 13])
    feats[1, 13:] = torch.nan
    batch, lens = griffin_lim(feats, feat_lens, frontend, num_iters=5)
    assert lens.tolist() == [3200, 2080]
    assert not batch[1, 2080:].any()
    alone, _ = griffin_lim(feats[1:, :13], feat_lens[1:], frontend, num_iters=5)
    torch.testing.assert_close(batch[1:, :2080], alone)


def test_no_frames_are_no_samples():
    frontend = LogMel(LogMelConfig.for_vocoder(16000))
    wav, lens = griffin_lim(torch.zeros(1, 0, 80), torch.tensor([0]), frontend)
    assert wav.shape == (1, 0)
    assert lens.tolist() == [0]


def test_other_features_are_refused():
    with pytest.raises(ConfigError, match="spectrum magnitude and padding same, got power and center"):
        griffin_lim(torch.zeros(1, 5, 80), torch.tensor([5]), LogMel(LogMelConfig()))
