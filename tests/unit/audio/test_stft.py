import pytest
import torch

from speechnar.audio.stft import inverse_stft, stft
from speechnar.errors import ConfigError

SIZES = [(1024, 256), (640, 160), (64, 16), (60, 20), (64, 32)]


@pytest.mark.parametrize(("num_samples", "hop"), SIZES)
def test_any_spectrum_gives_what_torch_gives(num_samples, hop):
    """Also one that no signal has; torch's first sample is half a hop before ours."""
    torch.manual_seed(0)
    spectrum = torch.randn(2, num_samples // 2 + 1, 12, dtype=torch.complex64)
    window = torch.hann_window(num_samples)
    wav = inverse_stft(spectrum, torch.tensor([12, 12]), window, hop)
    expected = torch.istft(spectrum, num_samples, hop, num_samples, window, center=True)
    assert wav.shape == (2, 12 * hop)
    # torch has no samples before the centre of the first frame and behind that of the last one.
    torch.testing.assert_close(wav[:, hop // 2 : -hop // 2], expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(("num_samples", "hop"), SIZES)
def test_the_spectrum_of_a_sound_gives_the_sound(num_samples, hop):
    torch.manual_seed(0)
    wav = torch.randn(1, 12 * hop)
    padded = torch.nn.functional.pad(wav, ((num_samples - hop) // 2,) * 2)
    window = torch.hann_window(num_samples)
    spectrum = torch.stft(padded, num_samples, hop, window=window, center=False, return_complex=True)
    assert spectrum.size(2) == 12
    torch.testing.assert_close(inverse_stft(spectrum, torch.tensor([12]), window, hop), wav, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(("num_samples", "hop"), SIZES)
def test_a_spectrum_in_two_parts_is_the_same(num_samples, hop):
    torch.manual_seed(0)
    spectrum = torch.randn(2, num_samples // 2 + 1, 12, dtype=torch.complex64)
    lens, window = torch.tensor([12, 7]), torch.hann_window(num_samples)
    wav = inverse_stft(torch.view_as_real(spectrum), lens, window, hop)
    torch.testing.assert_close(wav, inverse_stft(spectrum, lens, window, hop), atol=1e-5, rtol=1e-4)


def test_an_utterance_is_the_same_in_any_batch():
    torch.manual_seed(0)
    spectrum, window = torch.randn(2, 33, 9, dtype=torch.complex64), torch.hann_window(64)
    batch = inverse_stft(spectrum, torch.tensor([9, 4]), window, 16)
    alone = inverse_stft(spectrum[1:, :, :4], torch.tensor([4]), window, 16)
    torch.testing.assert_close(batch[1:, :64], alone)
    assert not batch[1, 64:].any()


def test_no_frames_are_no_samples():
    spectrum = torch.zeros(2, 33, 0, dtype=torch.complex64)
    assert inverse_stft(spectrum, torch.zeros(2, dtype=torch.int64), torch.hann_window(64), 16).shape == (2, 0)


@pytest.mark.parametrize("hop", [33, 0, 15])
def test_windows_that_hardly_overlap_are_refused(hop):
    with pytest.raises(ConfigError, match=f"at most half of the window's 64 samples.*, got {hop}"):
        inverse_stft(torch.zeros(1, 33, 2, dtype=torch.complex64), torch.tensor([2]), torch.hann_window(64), hop)


@pytest.mark.parametrize(("num_samples", "hop"), SIZES)
def test_the_spectrum_of_samples_is_what_gives_them_back(num_samples, hop):
    torch.manual_seed(0)
    wav, window = torch.randn(2, 9 * hop), torch.hann_window(num_samples)
    spectrum = stft(wav, window, hop)
    assert spectrum.shape == (2, num_samples // 2 + 1, 9)
    torch.testing.assert_close(inverse_stft(spectrum, torch.tensor([9, 9]), window, hop), wav, atol=1e-5, rtol=1e-4)
    in_parts = stft(wav, window, hop, in_parts=True)
    torch.testing.assert_close(torch.view_as_complex(in_parts), spectrum, atol=1e-4, rtol=1e-4)
