import pytest
import torch
import torchaudio

from speechnar.audio.griffin_lim import MOMENTUM, find_phases, reach_frames
from speechnar.audio.stft import inverse_stft, stft

SIZES = [(640, 160), (64, 16), (60, 20), (64, 32)]


def sound(num_samples: int) -> torch.Tensor:
    """Return a buzz with a moving pitch."""
    phase = torch.cumsum(0.05 + 0.02 * torch.linspace(0, 6, num_samples).sin(), 0)
    return sum((torch.sin(k * phase) / k for k in range(1, 6)), torch.zeros(num_samples))[None]


def convergence(magnitudes: torch.Tensor, wav: torch.Tensor, window: torch.Tensor, hop: int) -> float:
    """Return which share of the magnitudes the sound's own are away from them."""
    return float((stft(wav, window, hop).abs() - magnitudes).norm() / magnitudes.norm())


def test_magnitudes_are_kept_and_the_sound_comes_near_them():
    window, lens = torch.hann_window(640), torch.tensor([100])
    magnitudes = stft(sound(16000), window, 160).abs()
    found = {}
    for iterations in (0, 4, 16):
        spectrum = find_phases(magnitudes, lens, window, 160, iterations=iterations)
        torch.testing.assert_close(spectrum.abs(), magnitudes, atol=1e-4, rtol=1e-4)
        wav = inverse_stft(spectrum, lens, window, 160)
        found[iterations] = convergence(magnitudes, wav, window, 160)
    assert found[16] < 0.7 * found[4] < 0.5 * found[0]
    assert not find_phases(magnitudes, lens, window, 160, iterations=0).imag.any()


@pytest.mark.parametrize("iterations", [1, 3, 6])
def test_it_is_torchaudios_fast_griffin_lim(iterations):
    """But for where frames lie, half a hop apart, and for the ends, which torch reflects."""
    hop, window = 160, torch.hann_window(640)
    magnitudes = stft(sound(16000), window, hop).abs()
    spectrum = find_phases(magnitudes, torch.tensor([100]), window, hop, iterations=iterations)
    found = inverse_stft(spectrum, torch.tensor([100]), window, hop)
    expected = torchaudio.functional.griffinlim(
        magnitudes, window, 640, hop, 640, 1.0, iterations, MOMENTUM, None, rand_init=False
    )
    inside = slice(30 * hop, 70 * hop)
    torch.testing.assert_close(found[:, hop // 2 :][:, inside], expected[:, inside], atol=1e-3, rtol=1e-3)


def test_an_utterance_is_the_same_in_any_batch():
    torch.manual_seed(0)
    magnitudes, window = torch.rand(2, 33, 30), torch.hann_window(64)
    batch = find_phases(magnitudes, torch.tensor([30, 17]), window, 16, iterations=5)
    alone = find_phases(magnitudes[1:, :, :17], torch.tensor([17]), window, 16, iterations=5)
    torch.testing.assert_close(batch[1:, :, :17], alone, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("num_samples", "hop"), SIZES)
def test_samples_depend_on_no_frame_out_of_reach(num_samples, hop):
    torch.manual_seed(0)
    iterations, window, lens = 3, torch.hann_window(num_samples), torch.tensor([60])
    reach = reach_frames(num_samples, hop, iterations=iterations)
    magnitudes = torch.rand(1, num_samples // 2 + 1, 60)

    def first_hop(changed: int) -> torch.Tensor:
        other = magnitudes.clone()
        other[:, :, changed] += 1.0
        return inverse_stft(find_phases(other, lens, window, hop, iterations=iterations), lens, window, hop)[0, :hop]

    apart = [(first_hop(frame) - first_hop(59)).abs().max() for frame in (reach // 2, reach + 1)]
    assert apart[0] > 0
    assert apart[1] == 0


def test_silence_stays_silence():
    spectrum = find_phases(torch.zeros(1, 33, 9), torch.tensor([9]), torch.hann_window(64), 16, iterations=3)
    assert torch.equal(spectrum, torch.zeros_like(spectrum))


def test_a_graph_without_complex_numbers_finds_the_same():
    class Phases(torch.nn.Module):
        def forward(self, magnitudes, lens):
            return find_phases(magnitudes, lens, torch.hann_window(64), 16, iterations=4)

    torch.manual_seed(0)
    magnitudes, lens = torch.rand(2, 33, 20) + 0.1, torch.tensor([20, 13])
    exported = torch.export.export(Phases(), (magnitudes, lens)).module()
    expected = torch.view_as_real(Phases()(magnitudes, lens))
    torch.testing.assert_close(exported(magnitudes, lens)[1, :, :13], expected[1, :, :13], atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(exported(magnitudes, lens)[0], expected[0], atol=1e-3, rtol=1e-3)
