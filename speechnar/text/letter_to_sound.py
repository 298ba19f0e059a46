"""How a word that no dictionary lists is pronounced, from its letters, in one pass and without torch.

The word, between two boundary symbols, runs through gated convolutions over letters; each letter then emits two frames
of phonemes or blank, and the best path of CTC is read off. ``speechnar tts fit-letters`` trains the
weights on misaki's dictionary (Apache-2.0); ``letter_to_sound.json`` has the scores of those here on words set aside.

Shapes: L letters with the boundaries, D model width, K kernel, V phonemes with the blank, F = 2 L frames.
Source: CTC, Graves et al., ICML 2006; gated convolutions, Dauphin et al., "Language Modeling with Gated Convolutional
Networks", ICML 2017.
"""

import functools
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file

from speechnar.errors import DataError
from speechnar.text.lexicon import CONSONANTS, PRIMARY, SECONDARY, VOWELS

Array = NDArray[np.float32]

WEIGHTS_PATH = Path(__file__).with_suffix(".safetensors")
LETTERS = "abcdefghijklmnopqrstuvwxyz"
PAD_ID, BOUNDARY_ID = 0, 1
NUM_SYMBOLS = 2 + len(LETTERS)
FRAMES_PER_LETTER = 2
PHONEMES = ("", *CONSONANTS, *(stress + vowel for vowel in VOWELS for stress in ("", PRIMARY, SECONDARY)))
"""What a frame may emit; the first is the blank."""
NORM_EPS = 1e-5


class LetterToSound:
    """The trained network.

    Args:
        weights: ``embedding`` (symbols, D); for each layer i ``norm.i`` (D,), ``conv.i.weight`` (2 D, D, K) and
            ``conv.i.bias`` (2 D,); ``norm`` (D,), ``output.weight`` (2 V, D) and ``output.bias`` (2 V,).
    """

    def __init__(self, weights: Mapping[str, Array]) -> None:
        self._weights = {name: np.asarray(weight, dtype=np.float32) for name, weight in weights.items()}
        self._num_layers = sum(name.startswith("conv.") and name.endswith(".weight") for name in weights)

    def __call__(self, word: str) -> str:
        """Return the pronunciation of a word; letters other than A to Z are left out."""
        letters = letter_ids(word)
        if len(letters) == 2:
            return ""
        best = self.logits(letters).argmax(axis=-1)  # (F,)
        starts = np.flatnonzero(np.diff(best, prepend=0))
        return "".join(PHONEMES[phoneme] for phoneme in best[starts])

    def logits(self, letters: list[int]) -> Array:
        """Return the logits (F, V) of one word's symbols (L,)."""
        x = self._weights["embedding"][letters]
        for layer in range(self._num_layers):
            weight, bias = self._weights[f"conv.{layer}.weight"], self._weights[f"conv.{layer}.bias"]
            halo = weight.shape[2] // 2
            normed = np.pad(_rms_norm(x, self._weights[f"norm.{layer}"]), ((halo, halo), (0, 0)))
            windows = np.lib.stride_tricks.sliding_window_view(normed, weight.shape[2], axis=0)  # (L, D, K)
            hidden = windows.reshape(len(x), -1) @ weight.reshape(len(weight), -1).T + bias
            values, gates = np.split(hidden, 2, axis=-1)
            x = x + values / (1 + np.exp(-gates))
        out = _rms_norm(x, self._weights["norm"]) @ self._weights["output.weight"].T + self._weights["output.bias"]
        frames: Array = out.reshape(FRAMES_PER_LETTER * len(x), len(PHONEMES))
        return frames


@functools.cache
def english_letter_to_sound() -> LetterToSound:
    """Return the network of American English that comes with the package.

    Raises:
        DataError: its weights are missing.
    """
    if not WEIGHTS_PATH.is_file():
        raise DataError(
            f"{WEIGHTS_PATH}: needed for words that are not in the dictionary, and missing; install the package again, "
            "or train it by speechnar tts fit-letters"
        )
    return LetterToSound(load_file(WEIGHTS_PATH))


def letter_ids(word: str) -> list[int]:
    """Return the symbols (L,) of a word between its boundaries."""
    known = (LETTERS.find(letter) for letter in word.lower())
    return [BOUNDARY_ID, *(2 + place for place in known if place >= 0), BOUNDARY_ID]


def _rms_norm(x: Array, scale: Array) -> Array:
    normed: Array = x / np.sqrt((x * x).mean(axis=-1, keepdims=True) + NORM_EPS) * scale
    return normed
