"""Write how long each token of data directories lasts (``speechnar data durations``).

A hidden Markov model of the tokens (`speechnar.models.tts.monophones`) is fitted to the recordings themselves and
aligned with them, so nothing needs to be held out. The model can be kept: text to speech that starts from
its folder finds words in recordings by it.
"""

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

from speechnar.data.dataset import read_utterance
from speechnar.data.kaldi import DURATIONS_FILE, Utterance, read_kaldi_dir, write_durations
from speechnar.errors import DataError
from speechnar.models.base import save_model
from speechnar.models.tts.monophones import RATE, Monophones, MonophonesConfig, Sentence
from speechnar.text.tokenizer import Tokenizer, load_tokenizer

logger = logging.getLogger(__name__)

ITERATIONS = 24
SPLIT_AT = (8, 14)
"""Iterations after which every density becomes two."""
BATCH_S = 200.0


def align(tokenizer: Tokenizer, utterances: Sequence[Utterance]) -> tuple[Monophones, list[list[float] | None]]:
    """Return a model of the utterances' sounds, and the seconds of each token of each utterance.

    They are None for utterances that are too short for their text.

    Raises:
        AudioError: audio cannot be read.
        DataError: no utterance can be aligned.
    """
    model = Monophones.from_config(MonophonesConfig(num_densities=2 ** len(SPLIT_AT)), tokenizer)
    prepared = [
        model.read(torch.from_numpy(read_utterance(utterance, RATE)), tokenizer.encode(utterance.text))
        for utterance in utterances
    ]
    sentences = {number: sentence for number, sentence in enumerate(prepared) if sentence is not None}
    if len(sentences) < len(utterances):
        logger.warning(
            "%d of %d utterances have no text or are too short for it",
            len(utterances) - len(sentences),
            len(utterances),
        )
    if not sentences:
        raise DataError("no utterance can be aligned: all are without text or too short for it")
    batches = list(_batches(sentences))
    paths = {number: _even_path(sentence) for number, sentence in sentences.items()}
    num_frames = sum(len(sentence.feats) for sentence in sentences.values())

    def fit() -> None:
        model.fit((sentence.feats, sentence.states[paths[number]]) for number, sentence in sentences.items())

    model.init_densities(torch.cat([sentence.feats for sentence in sentences.values()]))
    for iteration in range(ITERATIONS):
        fit()
        if iteration in SPLIT_AT:
            model.split()
            fit()
        total = 0.0
        for batch in batches:
            found, score = model.find([sentences[number] for number in batch])
            paths |= {number: path for number, path in zip(batch, found, strict=True) if path is not None}
            total += score
        logger.info("iteration %d: %.3f nats a frame", iteration + 1, total / num_frames)
    durations: list[list[float] | None] = [None] * len(utterances)
    for number, sentence in sentences.items():
        durations[number] = sentence.durations(paths[number])
    return model, durations


def _batches(sentences: dict[int, Sentence]) -> Iterator[list[int]]:
    """Yield the numbers of utterances of similar length, of up to `BATCH_S` together with padding."""
    group: list[int] = []
    for number, sentence in sorted(sentences.items(), key=lambda item: (len(item[1].feats), item[0])):
        if group and sentence.seconds * (len(group) + 1) > BATCH_S:
            yield group
            group = []
        group.append(number)
    if group:
        yield group


def _even_path(sentence: Sentence) -> Tensor:
    """Return the place (T,) in the states of each frame, all states alike long."""
    num_frames = len(sentence.feats)
    return torch.arange(num_frames) * len(sentence.states) // num_frames


def align_dirs(tokenizer: str | Path, data_dirs: Sequence[Path], *, aligner: str | Path | None = None) -> None:
    """Write the durations of the data directories, all aligned by one model, and that model to ``aligner``.

    Raises:
        AudioError: audio cannot be read.
        DataError: a directory is malformed, or no utterance can be aligned.
    """
    loaded = load_tokenizer(tokenizer)
    for folder in data_dirs:
        (folder / DURATIONS_FILE).unlink(missing_ok=True)  # of another text or audio, they would be a fault
    read = [(folder, utterance) for folder in data_dirs for utterance in read_kaldi_dir(folder)]
    model, durations = align(loaded, [utterance for _, utterance in read])
    for folder in data_dirs:
        found = {
            utterance.utt_id: seconds
            for (owner, utterance), seconds in zip(read, durations, strict=True)
            if owner == folder and seconds is not None
        }
        write_durations(folder, found)
        logger.info("%s: %d utterances aligned", folder, len(found))
    if aligner is not None:
        save_model(aligner, model, loaded, card=f"# monophones\n\nOf {len(read)} utterances.\n")
