"""Code the sound of data directories once (``speechnar data codes``).

A generator then learns from the codes (``data: {kind: codes}``), which is
several times as fast as to code the same sound at every step.
"""

from pathlib import Path

import torch
from safetensors.torch import save_file
from torch.nn import functional as F

from speechnar.data.codes import CODES_FILE
from speechnar.data.dataset import read_utterance
from speechnar.data.kaldi import read_kaldi_dir
from speechnar.errors import ConfigError
from speechnar.models.base import load_model
from speechnar.models.sound.encodec import Encodec


@torch.no_grad()
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
    device = next(codec.parameters()).device
    min_samples = round(min_seconds * codec.sample_rate)
    found = {}
    for utterance in read_kaldi_dir(folder):
        wav = torch.from_numpy(read_utterance(utterance, codec.sample_rate)).to(device)
        codes, _ = codec.encode(F.pad(wav, (0, max(0, min_samples - len(wav))))[None])
        found[utterance.utt_id] = codes[0].to("cpu", torch.int16).contiguous()
    temporary = folder / f".{CODES_FILE}.tmp"
    save_file(found, temporary)
    temporary.replace(folder / CODES_FILE)
    return sum(codes.size(1) for codes in found.values())


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
