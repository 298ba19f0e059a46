"""Judges of speech that nobody here trained: DNSMOS, how good it sounds; Resemblyzer, whose voice it is.

Their weights come with the packages ``speechmos`` (MIT) and ``resemblyzer`` (Apache-2.0), of which no code is run.

Shapes: S samples, T frames, F mel bands, E embedding width.
Sources: Reddy, Gopal and Cutler, "DNSMOS P.835: A non-intrusive perceptual objective speech quality metric to evaluate
noise suppressors", ICASSP 2022; Wan et al., "Generalized end-to-end loss for speaker verification", ICASSP 2018.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from speechnar.decode.vad import detect_speech
from speechnar.errors import DataError
from speechnar.extras import needs, package_folder
from speechnar.pickled import load_pickled

Samples = NDArray[np.float32]

RATE = 16000
"""Samples per second of what is judged."""
_WINDOW, _HOP = 144_160, 16_000
"""What DNSMOS hears at once (9.01 s), and how far it moves on."""
# From what the network gives to opinions: polynomials of the authors, highest power first.
_SIGNAL = (-0.08397278, 1.22083953, 0.0052439)
_BACKGROUND = (-0.13166888, 1.60915514, -0.39604546)
_OVERALL = (-0.06766283, 1.11546468, 0.04602535)

# Of Resemblyzer.
NUM_MELS, FFT_SIZE, HOP_LENGTH = 40, 400, 160
WIDTH, NUM_LAYERS = 256, 3
WINDOW_FRAMES, SHIFT_FRAMES = 160, 77
LEVEL_DB = -30.0
"""To which quieter speech is raised, against full scale."""


@dataclass(frozen=True)
class Opinion:
    """What listeners would say, from 1 to 5."""

    overall: float
    signal: float
    background: float


class Dnsmos:
    """DNSMOS P.835 as its authors publish it.

    Raises:
        MissingExtraError: onnxruntime or speechmos is not installed.
    """

    def __init__(self) -> None:
        path = package_folder("speechmos") / "dnsmos_models" / "sig_bak_ovr.onnx"
        with needs("onnx"):
            import onnxruntime  # noqa: PLC0415
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self._session: Any = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    def judge(self, wav: Samples) -> Opinion:
        """Return the mean opinion of samples (S,) at 16 kHz, second by second; short ones are doubled.

        Raises:
            DataError: there are no samples.
        """
        if not len(wav):
            raise DataError("an opinion needs speech, got no samples")
        heard = wav
        while len(heard) < _WINDOW:
            heard = np.tile(heard, 2)
        whole_s = len(heard) // RATE  # of a second that is not whole the authors hear nothing
        starts = range(0, max(whole_s * RATE - _WINDOW, 0) + 1, _HOP)
        windows = np.stack([heard[start : start + _WINDOW] for start in starts]).clip(-1, 1).astype(np.float32)
        raw = np.concatenate([self._session.run(None, {"input_1": window[None]})[0] for window in windows])
        signal, background, overall = (
            float(np.polyval(fit, raw[:, at]).mean()) for at, fit in enumerate((_SIGNAL, _BACKGROUND, _OVERALL))
        )
        return Opinion(overall, signal, background)


class VoiceEncoder(nn.Module):
    """Resemblyzer's network: three LSTM layers over windows of 1.6 s, the mean of which is the voice.

    Differs from the package: silence is cut away by our detector of speech, not by that of WebRTC.

    Raises:
        MissingExtraError: the package resemblyzer, or librosa, is not installed.
    """

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(NUM_MELS, WIDTH, NUM_LAYERS, batch_first=True)
        self.linear = nn.Linear(WIDTH, WIDTH)
        path = package_folder("resemblyzer") / "pretrained.pt"
        weights = load_pickled(path)["model_state"]
        self.load_state_dict({name: weight for name, weight in weights.items() if not name.startswith("similarity")})
        with needs("eval"):
            import librosa.filters  # noqa: PLC0415

        mels = librosa.filters.mel(sr=RATE, n_fft=FFT_SIZE, n_mels=NUM_MELS)  # (F, bins)
        self._mels = torch.from_numpy(mels)
        self.eval()

    @torch.no_grad()
    def embed(self, wav: Samples) -> NDArray[np.float32]:
        """Return the unit vector (E,) of the voice in samples (S,) at 16 kHz.

        Raises:
            DataError: there are no samples.
        """
        if not len(wav):
            raise DataError("a voice needs speech, got no samples")
        spans = detect_speech([wav])
        spoken = [wav[round(span.start_s * RATE) : round(span.end_s * RATE)] for span in spans]
        mels = self._mel(_leveled(np.concatenate(spoken) if spoken else wav))
        mels = nn.functional.pad(mels, (0, 0, 0, max(WINDOW_FRAMES - len(mels), 0)))
        last = len(mels) - WINDOW_FRAMES
        starts = sorted({*range(0, last + 1, SHIFT_FRAMES), last})
        voices = self(torch.stack([mels[start : start + WINDOW_FRAMES] for start in starts]))
        voice: NDArray[np.float32] = nn.functional.normalize(voices.mean(dim=0), dim=0).numpy()
        return voice

    def forward(self, mels: Tensor) -> Tensor:
        """Return unit vectors (B, E) of windows of mel power (B, T, F)."""
        _, (hidden, _) = self.lstm(mels)
        return nn.functional.normalize(torch.relu(self.linear(hidden[-1])), dim=-1)

    def _mel(self, wav: Samples) -> Tensor:
        """Return mel power (T, F), not its logarithm."""
        window = torch.hann_window(FFT_SIZE)
        spectrum = torch.stft(
            torch.from_numpy(wav), FFT_SIZE, HOP_LENGTH, window=window, pad_mode="constant", return_complex=True
        )
        return (self._mels @ spectrum.abs().square()).T


def _leveled(wav: Samples) -> Samples:
    level_db = 10 * np.log10(max(float(np.square(wav, dtype=np.float64).mean()), 1e-12))
    return (wav * 10 ** (max(LEVEL_DB - level_db, 0.0) / 20)).astype(np.float32)
