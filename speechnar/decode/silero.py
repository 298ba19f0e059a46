"""The network of Silero VAD at 16 kHz, over many windows of a recording at once.

Its weights come with the wheel of silero-vad; its TorchScript takes one window at a time, most of whose time is not
spent on arithmetic. Spectra and convolutions see no other window, so that only an LSTM has to go through them in order.

Shapes: N windows.
Source: Silero Team, "Silero VAD", 2024, https://github.com/snakers4/silero-vad, version 6.
"""

import pickle
from collections.abc import Iterator, Sequence
from functools import lru_cache
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple
from zipfile import ZipFile

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional as F

WINDOW_SAMPLES = 512
"""What one probability is of."""
CONTEXT_SAMPLES = 64
"""Heard again before each window; as many are mirrored behind it."""
FRAME_SHIFT = 128
CONV_STRIDES = (1, 2, 2, 1)
WINDOWS_AT_ONCE = 128
"""Whose spectra stay in a core's cache: four seconds."""


class Silero:
    """The network with a state of its own: windows of one recording, in order, to probabilities of speech."""

    def __init__(self) -> None:
        self._weights = _read_weights()
        self._context = torch.zeros(1, CONTEXT_SAMPLES)
        self._state: tuple[Tensor, Tensor] | None = None

    def hear(self, windows: npt.NDArray[np.float32]) -> Iterator[float]:
        """Yield the probability that somebody speaks in each of the ``windows`` (N, 512) that follow.

        Some windows are heard at a time, when the first of them is asked for.
        """
        for begin in range(0, len(windows), WINDOWS_AT_ONCE):
            yield from self._hear(torch.from_numpy(windows[begin : begin + WINDOWS_AT_ONCE])).tolist()

    @torch.inference_mode()
    def _hear(self, windows: Tensor) -> Tensor:
        contexts = torch.cat([self._context, windows[:, -CONTEXT_SAMPLES:]])
        self._context = contexts[-1:].clone()
        encoded = self._weights.encode(torch.cat([contexts[:-1], windows], dim=1))
        states, self._state = self._weights.lstm(encoded, self._state)
        return self._weights.classify(states)


class _Weights(NamedTuple):
    """What all recordings share."""

    basis: Tensor
    """(258, 1, 256), a Fourier transform as a convolution: real parts, then imaginary ones."""
    convolutions: tuple[tuple[Tensor, Tensor], ...]
    """Weight and bias of each."""
    lstm: nn.LSTM
    output: tuple[Tensor, Tensor]
    """Weight (1, 128) and bias (1,)."""

    def encode(self, samples: Tensor) -> Tensor:
        """Return the features (N, 128) of windows with their contexts (N, 64 + 512)."""
        padded = F.pad(samples[:, None], (0, CONTEXT_SAMPLES), mode="reflect")
        real, imaginary = F.conv1d(padded, self.basis, stride=FRAME_SHIFT).chunk(2, dim=1)
        x = (real.square() + imaginary.square()).sqrt()  # (N, 129, 4)
        for (weight, bias), stride in zip(self.convolutions, CONV_STRIDES, strict=True):
            x = F.conv1d(x, weight, bias, stride=stride, padding=1).relu()
        return x.squeeze(2)

    def classify(self, states: Tensor) -> Tensor:
        """Return the probabilities (N,) for outputs of the LSTM (N, 128)."""
        return F.linear(states.relu(), *self.output).sigmoid().squeeze(1)


@lru_cache(maxsize=1)
def _read_weights() -> _Weights:
    spec = find_spec("silero_vad")  # not imported: that sets torch's thread count
    assert spec is not None and spec.origin is not None, "a dependency"
    # The other files of the wheel hold other versions of the weights.
    path = Path(spec.origin).parent / "data" / "silero_vad.jit"
    state = _read_tensors(path)
    names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    lstm = nn.LSTM(*state["decoder.rnn.weight_ih"].shape[1:], *state["decoder.rnn.weight_hh"].shape[1:])
    lstm.load_state_dict({f"{name}_l0": state[f"decoder.rnn.{name}"] for name in names})
    return _Weights(
        state["stft.forward_basis_buffer"],
        tuple(_pair(state, f"encoder.{index}.reparam_conv") for index in range(len(CONV_STRIDES))),
        lstm.eval().requires_grad_(requires_grad=False),
        (state["decoder.decoder.2.weight"].squeeze(2), state["decoder.decoder.2.bias"]),
    )


def _read_tensors(path: Path) -> dict[str, Tensor]:
    """Return the tensors of the network for 16 kHz in a TorchScript archive, whose program stays unread.

    ``torch.jit.load`` would compile it, which takes longer than hearing a minute of speech.
    """
    with ZipFile(path) as archive:
        root = archive.namelist()[0].partition("/")[0]
        script = _Unpickler(archive, root).load()
    found: dict[str, Tensor] = {}
    waiting = [("", script._model)]
    while waiting:
        prefix, part = waiting.pop()
        for name, value in vars(part).items():
            if isinstance(value, Tensor):
                found[prefix + name] = value
            elif isinstance(value, _Part):
                waiting.append((f"{prefix}{name}.", value))
    return found


class _Part:
    """A module of the script: its attributes, without its methods."""


class _Unpickler(pickle.Unpickler):
    """Reads what a TorchScript archive pickles, and knows no name besides."""

    def __init__(self, archive: ZipFile, root: str) -> None:
        super().__init__(BytesIO(archive.read(f"{root}/data.pkl")))
        self._archive, self._root = archive, root

    def find_class(self, module: str, name: str) -> Any:
        if module.startswith("__torch__."):
            return _Part
        return _KNOWN[module, name]

    def persistent_load(self, pid: tuple[str, torch.dtype, str, str, int]) -> Tensor:
        """Return the numbers (N,) of a storage."""
        _, dtype, key, _, size = pid
        stored = self._archive.read(f"{self._root}/data/{key}")
        return torch.frombuffer(bytearray(stored), dtype=dtype) if size else torch.empty(0, dtype=dtype)


def _view(storage: Tensor, first: int, size: Sequence[int], stride: Sequence[int], *_: object) -> Tensor:
    return storage.as_strided(size, stride, first)


_KNOWN: dict[tuple[str, str], Any] = {
    ("torch._utils", "_rebuild_tensor_v2"): _view,
    ("torch", "FloatStorage"): torch.float32,
    ("torch.jit._pickle", "build_intlist"): list,
    ("collections", "OrderedDict"): dict,
}


def _pair(state: dict[str, Tensor], name: str) -> tuple[Tensor, Tensor]:
    return state[f"{name}.weight"], state[f"{name}.bias"]
