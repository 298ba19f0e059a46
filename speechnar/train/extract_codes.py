"""Code the sound of data directories once (``speechnar data codes``).

A generator then learns from the codes (``data: {kind: codes}``), which is
several times as fast as to code the same sound at every step.
"""

from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F

from speechnar.data.codes import CODES_FILE
from speechnar.data.dataset import read_utterance
from speechnar.data.kaldi import Utterance, read_kaldi_dir
from speechnar.errors import ConfigError
from speechnar.files import replacing
from speechnar.models.base import load_model
from speechnar.models.sound.encodec import Encodec


def extract_codes(codec: Encodec, folder: Path, *, min_seconds: float = 0.0) -> int:
    """Write the codes of every utterance of ``folder`` into it, and return the number of frames.

    Args:
        codec: in evaluation mode, on any device.
        folder: a data directory; codes that are there are replaced.
        min_seconds: shorter sound is followed by silence.

    Raises:
        DataError: the directory is malformed.
        AudioError: a recording cannot be read.
    """
    found = {utt.utt_id: code(codec, utt, min_seconds=min_seconds) for utt in read_kaldi_dir(folder)}
    write_codes(folder, found)
    return sum(codes.size(1) for codes in found.values())


@torch.no_grad()
def code(codec: Encodec, utterance: Utterance, *, min_seconds: float = 0.0) -> Tensor:
    """Return the codes (K, T) of an utterance, int16.

    Raises:
        AudioError: it cannot be read.
    """
    wav = torch.from_numpy(read_utterance(utterance, codec.sample_rate)).to(next(codec.parameters()).device)
    missing = max(0, round(min_seconds * codec.sample_rate) - len(wav))
    codes, _ = codec.encode(F.pad(wav, (0, missing))[None])
    return codes[0].to("cpu", torch.int16).contiguous()


def write_codes(folder: Path, codes: dict[str, Tensor]) -> None:
    """Write the codes of all utterances into their data directory, whole or not at all."""
    with replacing(folder / CODES_FILE) as temporary:
        save_file(codes, temporary)


def load_codec(folder: str | Path, *, device: str = "cpu") -> Encodec:
    """Return the codec of a model folder, in evaluation mode.

    Raises:
        ConfigError: the model is of another kind.
        ModelNotFoundError: there is none.
    """
    codec = load_model(folder, device=device).model
    if not isinstance(codec, Encodec):
        raise ConfigError(f"{folder}: must be of kind encodec, got {type(codec).__name__}")
    return codec
