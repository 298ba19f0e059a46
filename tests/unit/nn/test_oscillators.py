import pytest
import torch

from speechnar.errors import ConfigError
from speechnar.nn.oscillators import NUM_BANDS, PARTS, OscillatorDecoder, frequencies

RATE, HOP = 16000, 320


def make() -> OscillatorDecoder:
    torch.manual_seed(0)
    decoder = OscillatorDecoder(RATE, HOP, 8)
    torch.nn.init.normal_(decoder.levels.weight, std=0.3)
    return decoder.eval()


def peak_hz(wav: torch.Tensor) -> float:
    spectrum = torch.fft.rfft(wav * torch.hann_window(len(wav))).abs()
    return float(spectrum.argmax()) * RATE / len(wav)


def test_frequencies_are_whole_and_dense():
    hz = frequencies(40.0, 7000.0, 36)
    assert torch.equal(hz, hz.round())
    gaps = hz[1:] - hz[:-1]
    assert bool((gaps < (2 ** (1 / 34) - 1) * hz[:-1] + 1).all())  # a third of a semitone, but for rounding
    assert hz[0] == 40
    assert 6800 < hz[-1] <= 7000


@pytest.mark.parametrize("index", [20, 100, 230])
def test_a_level_that_stays_is_a_pure_tone(index):
    """At any frequency: what convolutions make of the same latent again and again has the period of a frame."""
    decoder = make()
    hz = frequencies(40.0, 7000.0, 36)[index]
    levels = torch.zeros(1, 100, len(decoder.strides))
    levels[..., index] = 0.5
    wav = decoder._oscillate(levels)[0]
    assert wav.shape == (100 * HOP,)
    inner = wav[HOP : 99 * HOP]
    assert peak_hz(inner) == pytest.approx(float(hz), abs=1)
    time = torch.arange(len(inner), dtype=torch.float64) / RATE
    waves = torch.stack([(2 * torch.pi * hz * time).sin(), (2 * torch.pi * hz * time).cos()], dim=1)
    fitted = torch.linalg.lstsq(waves, inner.double()[:, None]).solution
    torch.testing.assert_close((waves @ fitted)[:, 0], inner.double(), atol=1e-3, rtol=0)
    assert float(fitted.norm()) == pytest.approx(0.5, rel=1e-3)


def test_bands_of_noise_are_where_they_should():
    decoder = make()
    centroids = []
    for band in (4, 16, 28):
        levels = torch.zeros(1, PARTS * 50, NUM_BANDS)
        levels[..., band] = 1.0
        power = torch.fft.rfft(decoder._rustle(levels)[0]).abs().square()
        centroids.append(float((power * torch.arange(len(power))).sum() / power.sum()) * RATE / (50 * HOP))
    assert centroids == sorted(centroids)
    assert centroids[0] < 1000 and centroids[2] > 4000


@torch.no_grad()
def test_sound_in_parts_is_sound_at_once():
    """Phases and noise are at every second what they are at the start, so that parts that begin there fit."""
    decoder = make()
    latents = torch.randn(1, 200, 8)
    whole, _ = decoder(latents)
    part, _ = decoder(latents[:, 100:])
    inside = slice(4 * HOP, -4 * HOP)  # beyond what the convolutions see of the edges
    torch.testing.assert_close(whole[0, 2 * RATE :][inside], part[0][inside], atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_an_utterance_sounds_the_same_in_any_batch():
    decoder = make()
    latents, lens = torch.randn(2, 60, 8), torch.tensor([60, 31])
    alone, none = decoder(latents[1:, :31])
    assert none is None
    latents[1, 31:] = torch.nan
    wav, wav_lens = decoder(latents, lens)
    assert wav_lens.tolist() == [60 * HOP, 31 * HOP]
    torch.testing.assert_close(wav[1, : 30 * HOP], alone[0, : 30 * HOP], atol=1e-6, rtol=1e-4)
    assert not wav[1, 31 * HOP :].any()
    assert torch.equal(decoder(latents[:1])[0], decoder(latents[:1])[0])
    assert not torch.equal(decoder.train()(latents[:1])[0], decoder(latents[:1])[0])  # noise is drawn anew


def test_gradients_reach_every_parameter():
    decoder = make().train()
    decoder(torch.randn(2, 10, 8))[0].square().mean().backward()
    assert all(p.grad is not None and bool(p.grad.any()) for p in decoder.parameters())


def test_frames_must_divide_a_second():
    with pytest.raises(ConfigError, match="frames of 300 samples, in 4 parts, must divide 16000"):
        OscillatorDecoder(16000, 300, 8)
