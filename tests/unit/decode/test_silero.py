import numpy as np
import pytest
import torch

from speechnar.decode.silero import WINDOW_SAMPLES, Silero
from tests.unit.tiny import vowels


@pytest.fixture(scope="module")
def windows() -> np.ndarray:
    """Six seconds of vowels, noise and silence."""
    noise = 0.01 * np.random.default_rng(0).standard_normal(3 * 16000).astype(np.float32)
    wav = np.concatenate([vowels(1.5), noise[:16000], np.zeros(8000, np.float32), vowels(1.2, seed=1), noise])
    return wav[: len(wav) // WINDOW_SAMPLES * WINDOW_SAMPLES].reshape(-1, WINDOW_SAMPLES)


@pytest.fixture(scope="module")
def expected(windows) -> np.ndarray:
    """What the TorchScript of silero-vad says of them, one after another."""
    from silero_vad import load_silero_vad

    num_threads = torch.get_num_threads()
    network = load_silero_vad()
    torch.set_num_threads(num_threads)
    with torch.inference_mode():
        probs = [network(torch.from_numpy(window), 16000).item() for window in windows]
    assert min(probs) < 0.1 and max(probs) > 0.9
    return np.array(probs)


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_many_windows_at_once_are_heard_as_one_by_one(windows, expected, size):
    network = Silero()
    heard = [prob for i in range(0, len(windows), size) for prob in network.hear(windows[i : i + size])]
    np.testing.assert_allclose(heard, expected, rtol=0, atol=1e-5)
    assert list(network.hear(windows[:0])) == []


def test_recordings_do_not_hear_each_other(windows, expected):
    networks = Silero(), Silero()
    both = [[network.hear(window[None]) for network in networks] for window in windows[:40]]
    for network in zip(*both, strict=True):
        heard = [prob for some in network for prob in some]
        np.testing.assert_allclose(heard, expected[:40], rtol=0, atol=1e-5)


def test_silero_is_not_imported_for_its_weights(interpreter):
    """Importing it sets torch's thread count."""
    code = "from speechnar.decode.silero import Silero; Silero(); sys.exit('silero_vad' in sys.modules)"
    assert interpreter.run(code).returncode == 0
