"""Store what a model's frozen part puts out: ``python -m speechnar.train.extract_features CONFIG DIR... [NAME=VALUE]``.

CONFIG is that of the training to come (its ``init_from`` gives the weights). Training then reads the features instead
of audio where ``data.stored_features`` says so, which leaves of a Whisper trunk only what is trained; SpecAugment masks
time and channels of what is stored.
"""

import argparse
import json
import logging
import sys
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import torch

from speechnar.config import load_config
from speechnar.data.dataset import DataConfig, SpeechDataset
from speechnar.data.features import INDEX_FILE, STATES_FILE, fingerprint
from speechnar.data.kaldi import read_kaldi_dir
from speechnar.errors import ConfigError, SpeechnarError
from speechnar.models.base import FeatureExtractor
from speechnar.text.tokenizer import Tokenizer, load_tokenizer
from speechnar.train.feed import prefetch
from speechnar.train.loop import cpu_computes_bf16
from speechnar.train.run import RunConfig, build_model, start_model

logger = logging.getLogger(__name__)


@torch.no_grad()
def extract_features(model: FeatureExtractor, folder: Path, tokenizer: Tokenizer, *, batch_seconds: float) -> int:
    """Write the features of every utterance of ``folder`` into it, and return the number of positions.

    Args:
        model: in evaluation mode.
        folder: a data directory; features that are there are replaced.
        tokenizer: of the model.
        batch_seconds: audio of a batch, padding counted.

    Raises:
        DataError: the directory is malformed.
        AudioError: a recording cannot be read.
    """
    settings = DataConfig(
        train=folder, dev=folder, batch_seconds=batch_seconds, cache_bytes=0, min_seconds=0.02, max_seconds=600.0
    )
    utterances = read_kaldi_dir(folder)
    data = SpeechDataset(utterances, tokenizer, settings, training=False, seed=0, sample_rate=model.sample_rate)
    places: dict[str, tuple[int, int]] = {}
    total, dim = 0, 0
    temporary = folder / f".{STATES_FILE}.tmp"
    with closing(prefetch(data.batches(0), 4)) as batches, temporary.open("wb") as file:
        for batch in batches:
            with torch.autocast("cpu", torch.bfloat16, enabled=cpu_computes_bf16()):
                feats, lens = model.features(batch.wav, batch.wav_lens)
            dim = feats.size(2)
            for utt_id, states, length in zip(batch.utt_ids, feats.half().numpy(), lens.tolist(), strict=True):
                file.write(states[:length].tobytes())
                places[utt_id] = (total, length)
                total += length
    (folder / INDEX_FILE).unlink(missing_ok=True)
    temporary.replace(folder / STATES_FILE)
    index = {"fingerprint": fingerprint(model.frozen_weights()), "dim": dim, "utterances": places}
    (folder / INDEX_FILE).write_text(json.dumps(index), encoding="utf-8")
    return total


def main(argv: Sequence[str] | None = None) -> int:
    """Run from the command line and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("config", type=Path, metavar="CONFIG", help="configuration of a training run")
    parser.add_argument("data_dirs", nargs="+", metavar="DIR|NAME=VALUE", help="data directories; overrides of CONFIG")
    parser.add_argument("--batch-seconds", type=float, default=120.0)
    args = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        config = load_config(args.config, RunConfig, [text for text in args.data_dirs if "=" in text])
        tokenizer = load_tokenizer(config.tokenizer)
        model = build_model(config.model, tokenizer).eval()
        if not isinstance(model, FeatureExtractor) or not any(True for _ in model.frozen_weights()):
            raise ConfigError(f"{args.config}: nothing of this model is frozen, so nothing can be stored")
        start_model(model, config)
        for folder in [Path(text) for text in args.data_dirs if "=" not in text]:
            total = extract_features(model, folder, tokenizer, batch_seconds=args.batch_seconds)
            logger.info("%s: %d positions", folder, total)
    except SpeechnarError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
