"""Store what a model's frozen part puts out, so that training need not compute it (``speechnar data features``).

The configuration is that of the training to come; its ``init_from`` gives the weights. Training reads the features in
place of audio where ``data.stored_features`` says so. SpecAugment then masks time and channels of what is stored.
"""

import json
from collections.abc import Generator, Iterable, Sequence
from contextlib import closing, suppress
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from speechnar.data.dataset import DataConfig, SpeechDataset
from speechnar.data.features import INDEX_FILE, STATES_FILE, StoredFeatures, fingerprint
from speechnar.data.kaldi import Utterance, read_kaldi_dir
from speechnar.errors import ConfigError, DataError
from speechnar.files import replacing
from speechnar.models.base import StoresFeatures
from speechnar.text.tokenizer import Tokenizer, load_tokenizer
from speechnar.train.feed import prefetch
from speechnar.train.loop import cpu_computes_bf16
from speechnar.train.run import RunConfig, build_model, start_model


def extract_features(model: StoresFeatures, folder: Path, tokenizer: Tokenizer, *, batch_seconds: float) -> int:
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
    states = states_of(model, read_kaldi_dir(folder), tokenizer, batch_seconds=batch_seconds)
    with closing(states):
        return write_features(folder, states, fingerprint(model.frozen_weights()))


@torch.no_grad()
def states_of(
    model: StoresFeatures, utterances: Sequence[Utterance], tokenizer: Tokenizer, *, batch_seconds: float
) -> Generator[tuple[str, NDArray[np.float16]]]:
    """Yield each utterance with its states (T, D), in any order; arguments as of `extract_features`.

    Raises:
        AudioError: a recording cannot be read.
    """
    settings = DataConfig(
        train=Path(), dev=Path(), batch_seconds=batch_seconds, cache_bytes=0, min_seconds=0.02, max_seconds=600.0
    )
    data = SpeechDataset(utterances, tokenizer, settings, training=False, seed=0, sample_rate=model.sample_rate)
    with closing(prefetch(data.batches(0), 4)) as batches:
        for batch in batches:
            with torch.autocast("cpu", torch.bfloat16, enabled=cpu_computes_bf16()):
                feats, lens = model.features(batch.wav, batch.wav_lens)
            for utt_id, states, length in zip(batch.utt_ids, feats.half().numpy(), lens.tolist(), strict=True):
                yield utt_id, states[:length]


def write_features(folder: Path, states: Iterable[tuple[str, NDArray[np.float16]]], made_by: str) -> int:
    """Write ``states`` of utterances, made by weights of that fingerprint, into ``folder``; return their positions."""
    places: dict[str, tuple[int, int]] = {}
    total, dim = 0, 0
    with replacing(folder / STATES_FILE) as temporary:
        with temporary.open("wb") as file:
            for utt_id, one in states:
                file.write(one.tobytes())
                places[utt_id] = (total, len(one))
                total, dim = total + len(one), one.shape[1]
        (folder / INDEX_FILE).unlink(missing_ok=True)
    index = {"fingerprint": made_by, "dim": dim, "utterances": places}
    with replacing(folder / INDEX_FILE) as temporary:
        temporary.write_text(json.dumps(index), encoding="utf-8")
    return total


def has_features(model: StoresFeatures, folder: Path) -> bool:
    """Return whether ``folder`` holds the features of all its utterances, made by the weights of ``model``."""
    with suppress(DataError):
        stored = StoredFeatures([folder])
        is_same = stored.fingerprint == fingerprint(model.frozen_weights())
        return is_same and all(utterance.utt_id in stored for utterance in read_kaldi_dir(folder))
    return False


def load_extractor(config: RunConfig) -> tuple[StoresFeatures, Tokenizer]:
    """Return the model of a training run to come, with the weights it starts from, and its tokenizer.

    Raises:
        ConfigError: nothing of the model is frozen.
        CheckpointError: ``init_from`` is unreadable or of another model.
    """
    tokenizer = load_tokenizer(config.tokenizer)
    model = build_model(config.model, tokenizer).eval()
    if not isinstance(model, StoresFeatures) or not any(True for _ in model.frozen_weights()):
        raise ConfigError("nothing of this model is frozen, so no features of it can be stored; set frozen_layers")
    start_model(model, config)
    return model, tokenizer
