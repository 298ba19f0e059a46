"""Write how long each token of data directories lasts: ``python -m speechnar.train.align_durations TOKENIZER DIR...``.

A hidden Markov model of the tokens is fitted to the recordings themselves and aligned with them: two states for each
sound, one for each mark and for the silences at the ends, which last a frame at least. Unlike CTC, which may say a word
in a burst somewhere in it, every frame has to be explained by the sound that it is said to be. It is used on its own
training data, so nothing needs to be held out.

Shapes: B utterances, T frames, F features, Q states of all tokens, M normal densities in a state.
Source: Young et al., "The HTK Book", chapters 1.5 and 8 (flat start, Viterbi training, splitting of densities); the
monophones of Povey et al., "The Kaldi Speech Recognition Toolkit", ASRU 2011.
Differs from them: the two states of a sound have no transition probabilities, which say little beside 39 features.
"""

import argparse
import logging
import math
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torchaudio
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from speechnar.data.dataset import read_utterance
from speechnar.data.kaldi import DURATIONS_FILE, Utterance, read_kaldi_dir, write_durations
from speechnar.decode.align import viterbi_align
from speechnar.errors import DataError, SpeechnarError
from speechnar.nn.lengths import valid_mask
from speechnar.text.sentences import is_speakable
from speechnar.text.tokenizer import Tokenizer, load_tokenizer

logger = logging.getLogger(__name__)

RATE, HOP = 16000, 160
SHIFT_S = HOP / RATE
NUM_CEPSTRA = 13
STATES = 2
"""Of a sound; the other tokens have one."""
ITERATIONS = 24
SPLIT_AT = (8, 14)
"""Iterations after which every density becomes two."""
SPLIT_BY = 0.2
"""Deviations, up and down."""
MIN_VARIANCE = 0.05
"""Of a feature in a state, as a share of its variance everywhere."""
MIN_FRAMES = 12
"""In a state, for each of its densities."""
BATCH_S = 200.0


@dataclass(frozen=True)
class _Sentence:
    """An utterance that can be aligned."""

    number: int
    """Of the utterance, among all."""
    feats: Tensor
    """(T, F)"""
    states: Tensor
    """int64, those of its tokens from left to right."""
    owners: Tensor
    """int64, the token of each of them, by its place in the text."""
    num_tokens: int
    seconds: float


class Monophones:
    """Mixtures of normal densities with diagonal covariances, one for each state of each token.

    State 0 is nobody's: `viterbi_align` wants a blank, which is never taken here.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self.is_sound = torch.tensor([is_speakable(piece) for piece in tokenizer.pieces])
        self.num_states = 1 + STATES * tokenizer.vocab_size
        self.means = torch.zeros(0)
        """(Q, M, F)"""
        self.variances = torch.zeros(0)
        """(Q, M, F)"""
        self.weights = torch.zeros(0)
        """(Q, M)"""

    def states_of(self, tokens: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Return the states of a text, and the place in it of the token that each belongs to."""
        pairs = [
            (1 + STATES * token + part, place)
            for place, token in enumerate(tokens)
            for part in range(STATES if self.is_sound[token] else 1)
        ]
        states, owners = zip(*pairs, strict=True)
        return torch.tensor(states), torch.tensor(owners)

    def score(self, feats: Tensor) -> Tensor:
        """Return the log-density (..., Q) of features (..., F) in each state, -inf in that of nobody."""
        precisions = 1 / self.variances
        constant = self.weights.log() - 0.5 * (
            self.means.size(2) * math.log(2 * math.pi)
            + self.variances.log().sum(2)
            + (self.means**2 * precisions).sum(2)
        )
        linear = feats @ (self.means * precisions).flatten(0, 1).T - 0.5 * feats**2 @ precisions.flatten(0, 1).T
        scores = (linear.view(*feats.shape[:-1], *constant.shape) + constant).logsumexp(-1)
        return torch.cat([torch.full_like(scores[..., :1], -torch.inf), scores[..., 1:]], dim=-1)

    def fit(self, labelled: Iterable[tuple[Tensor, Tensor]]) -> None:
        """Estimate all densities from features (T, F) and the state (T,) of each; a state unheard of stays general."""
        feats, labels = (torch.cat(parts) for parts in zip(*labelled, strict=True))
        general_mean, general_variance = feats.mean(0), feats.var(0)
        if not len(self.means):
            self.means = general_mean.expand(self.num_states, 1, -1).clone()
            self.variances = general_variance.expand(self.num_states, 1, -1).clone()
            self.weights = torch.ones(self.num_states, 1)
        shares = self._shares(feats, labels)  # (T, M)
        num_densities = shares.size(1)
        index = (labels[:, None] * num_densities + torch.arange(num_densities)).flatten()

        def total(x: Tensor) -> Tensor:  # (T, M, ...) to (Q, M, ...)
            sums = x.new_zeros(self.num_states * num_densities, *x.shape[2:])
            return sums.index_add_(0, index, x.flatten(0, 1)).view(self.num_states, num_densities, *x.shape[2:])

        counts = total(shares)
        known = counts > MIN_FRAMES
        mass = counts.clamp(min=1e-6)[..., None]
        means = total(shares[..., None] * feats[:, None]) / mass
        squares = total(shares[..., None] * feats[:, None] ** 2) / mass
        variances = (squares - means**2).maximum(MIN_VARIANCE * general_variance)
        self.means = means.where(known[..., None], self.means)
        self.variances = variances.where(known[..., None], self.variances)
        self.weights = (counts + 1.0) / (counts + 1.0).sum(1, keepdim=True)

    def split(self) -> None:
        """Make two densities of each, a little apart."""
        apart = SPLIT_BY * self.variances.sqrt()
        self.means = torch.cat([self.means + apart, self.means - apart], dim=1)
        self.variances = torch.cat([self.variances, self.variances], dim=1)
        self.weights = torch.cat([self.weights, self.weights], dim=1) / 2

    def _shares(self, feats: Tensor, labels: Tensor) -> Tensor:
        """Return how much of each frame each density (T, M) of its state explains."""
        means, variances = self.means[labels], self.variances[labels]
        log_densities = -0.5 * ((feats[:, None] - means) ** 2 / variances + variances.log()).sum(2)
        return (log_densities + self.weights[labels].log()).softmax(1)


def align(tokenizer: Tokenizer, utterances: Sequence[Utterance]) -> list[list[float] | None]:
    """Return the seconds of each token of each utterance; None for those that are too short for their text.

    Raises:
        AudioError: audio cannot be read.
        DataError: no utterance can be aligned.
    """
    model = Monophones(tokenizer)
    prepared = [_prepare(model, number, utterance) for number, utterance in enumerate(utterances)]
    sentences = [sentence for sentence in prepared if sentence is not None]
    if len(sentences) < len(utterances):
        logger.warning(
            "%d of %d utterances have no text or are too short for it",
            len(utterances) - len(sentences),
            len(utterances),
        )
    if not sentences:
        raise DataError("no utterance can be aligned: all are without text or too short for it")
    batches = list(_batches(sentences))
    paths = {sentence.number: _even_path(sentence) for sentence in sentences}
    for iteration in range(ITERATIONS):
        model.fit((sentence.feats, sentence.states[paths[sentence.number]]) for sentence in sentences)
        if iteration in SPLIT_AT:
            model.split()
            model.fit((sentence.feats, sentence.states[paths[sentence.number]]) for sentence in sentences)
        total = 0.0
        for batch in batches:
            found, score = _align_batch(model, batch)
            paths.update(found)
            total += score
        num_frames = sum(len(sentence.feats) for sentence in sentences)
        logger.info("iteration %d: %.3f nats a frame", iteration + 1, total / num_frames)
    return [None if sentence is None else _durations(sentence, paths[sentence.number]) for sentence in prepared]


def _prepare(model: Monophones, number: int, utterance: Utterance) -> _Sentence | None:
    tokens = model.tokenizer.encode(utterance.text)
    if not tokens:
        return None
    states, owners = model.states_of(tokens)
    wav = torch.from_numpy(read_utterance(utterance, RATE))
    feats = _features(wav)
    if len(feats) < len(states):
        return None
    return _Sentence(number, feats, states, owners, len(tokens), len(wav) / RATE)


_MFCC = torchaudio.transforms.MFCC(
    RATE,
    NUM_CEPSTRA,
    log_mels=True,
    melkwargs={"n_fft": 512, "win_length": 400, "hop_length": HOP, "n_mels": 40, "f_min": 40.0},
)


def _features(wav: Tensor) -> Tensor:
    """Return cepstra with two differences (T, 39), of zero mean in the utterance but for the loudest being alike."""
    cepstra = _MFCC(wav + 1e-5 * torch.randn(wav.shape, generator=torch.Generator().manual_seed(0)))
    loudness = cepstra[:1] - cepstra[:1].quantile(0.95)
    cepstra = torch.cat([loudness, cepstra[1:] - cepstra[1:].mean(1, keepdim=True)])
    slopes = torchaudio.functional.compute_deltas(cepstra)
    return torch.cat([cepstra, slopes, torchaudio.functional.compute_deltas(slopes)]).T.contiguous()


def _batches(sentences: Sequence[_Sentence]) -> Iterator[list[_Sentence]]:
    """Yield batches of similar length, of up to `BATCH_S` with padding."""
    group: list[_Sentence] = []
    for sentence in sorted(sentences, key=lambda s: (len(s.feats), s.number)):
        if group and sentence.seconds * (len(group) + 1) > BATCH_S:
            yield group
            group = []
        group.append(sentence)
    if group:
        yield group


def _even_path(sentence: _Sentence) -> Tensor:
    """Return the place (T,) in the states of each frame, all states alike long."""
    num_frames = len(sentence.feats)
    return torch.arange(num_frames) * len(sentence.states) // num_frames


def _align_batch(model: Monophones, batch: Sequence[_Sentence]) -> tuple[dict[int, Tensor], float]:
    """Return each frame's place in the states (T,), by the utterance's number, and the sum of all log-densities."""
    feats = pad_sequence([sentence.feats for sentence in batch], batch_first=True)
    states = pad_sequence([sentence.states for sentence in batch], batch_first=True)
    lens = torch.tensor([len(sentence.feats) for sentence in batch])
    num_states = torch.tensor([len(sentence.states) for sentence in batch])
    alignment = viterbi_align(model.score(feats), lens, states, num_states, 0)
    frames = torch.arange(feats.size(1))
    # The place of a frame is the number of states that have begun, less one.
    starts = alignment.starts.masked_fill(~valid_mask(num_states, states.size(1)), feats.size(1))
    places = torch.searchsorted(starts, frames.repeat(len(batch), 1), right=True) - 1
    found = {s.number: row[: len(s.feats)] for s, row, ok in zip(batch, places, alignment.possible, strict=True) if ok}
    return found, float(alignment.scores.sum())


def _durations(sentence: _Sentence, path: Tensor) -> list[float]:
    counts = torch.bincount(sentence.owners[path], minlength=sentence.num_tokens)
    seconds = counts.double() * SHIFT_S
    # The features may hold a frame more or less than the samples.
    seconds *= sentence.seconds / seconds.sum()
    return seconds.tolist()


def main(argv: Sequence[str] | None = None) -> int:
    """Run from the command line and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tokenizer", type=Path, metavar="TOKENIZER")
    parser.add_argument("data_dirs", nargs="+", type=Path, metavar="DIR", help="each gets a file durations")
    args = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        tokenizer = load_tokenizer(args.tokenizer)
        for folder in args.data_dirs:
            (folder / DURATIONS_FILE).unlink(missing_ok=True)  # of another text or audio, they would be a fault
        read = [(folder, utterance) for folder in args.data_dirs for utterance in read_kaldi_dir(folder)]
        durations = align(tokenizer, [utterance for _, utterance in read])
        for folder in args.data_dirs:
            found = {
                utterance.utt_id: seconds
                for (owner, utterance), seconds in zip(read, durations, strict=True)
                if owner == folder and seconds is not None
            }
            write_durations(folder, found)
            logger.info("%s: %d utterances aligned", folder, len(found))
    except SpeechnarError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
