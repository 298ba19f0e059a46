"""Code the sound of data directories once: ``python -m speechnar.train.extract_codes CODEC DIR...``.

CODEC is a model folder of kind encodec. A generator then learns from the codes (``data: {kind: codes}``), which is
several times as fast as to code the same sound at every step.
"""

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch.nn import functional as F

from speechnar.data.codes import CODES_FILE
from speechnar.data.dataset import read_utterance
from speechnar.data.kaldi import read_kaldi_dir
from speechnar.errors import ConfigError, SpeechnarError
from speechnar.models.base import load_model
from speechnar.models.sound.encodec import Encodec

logger = logging.getLogger(__name__)


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


def main(argv: Sequence[str] | None = None) -> int:
    """Run from the command line and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("codec", type=Path, metavar="CODEC", help="model folder of the codec")
    parser.add_argument("data_dirs", nargs="+", type=Path, metavar="DIR")
    parser.add_argument("--min-seconds", type=float, default=0.0, help="shorter sound is followed by silence")
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        codec = load_model(args.codec, device=args.device).model
        if not isinstance(codec, Encodec):
            raise ConfigError(f"{args.codec}: must be of kind encodec, got {type(codec).__name__}")
        for folder in args.data_dirs:
            num_frames = extract_codes(codec, folder, min_seconds=args.min_seconds)
            logger.info("%s: %d frames", folder, num_frames)
    except SpeechnarError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
