"""A hidden Markov model of the sounds of a text, which finds when each of them is said in a recording of it.

Two states for each sound, one for each mark and for the silences at the ends, which last a frame at least. Unlike CTC,
which may say a word in a burst somewhere in it, every frame has to be explained by the sound that it is said to be.

Shapes: B utterances, S samples, T frames, F features, V tokens of the vocabulary, U tokens of a text, Q states of all
tokens, M normal densities in a state.
Source: Young et al., "The HTK Book", chapters 1.5 and 8 (flat start, Viterbi training, splitting of densities); the
monophones of Povey et al., "The Kaldi Speech Recognition Toolkit", ASRU 2011.
Differs from them: the two states of a sound have no transition probabilities, which say little beside 39 features.
"""

import functools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from speechnar.decode.align import viterbi_align
from speechnar.models.base import ModelConfig
from speechnar.nn.lengths import valid_mask
from speechnar.text.sentences import is_speakable
from speechnar.text.tokenizer import Tokenizer

RATE, HOP, WIN_LENGTH, N_FFT = 16000, 160, 400, 512
NUM_MELS, F_MIN, LOG_FLOOR = 40, 40.0, 1e-6
NUM_CEPSTRA = 13
NUM_FEATURES = 3 * NUM_CEPSTRA
STATES = 2
"""Of a sound; the other tokens have one."""
SPLIT_BY = 0.2
"""Deviations, up and down."""
MIN_VARIANCE = 0.05
"""Of a feature in a state, as a share of its variance everywhere."""
MIN_FRAMES = 12
"""In a state, for each of its densities."""


class MonophonesConfig(ModelConfig):
    """How the sounds are modelled."""

    kind: Literal["monophones"] = "monophones"
    num_densities: int = Field(default=4, gt=0, le=1024)
    """Of each state."""


@dataclass(frozen=True)
class Sentence:
    """A recording with its text, long enough to be aligned."""

    feats: Tensor
    """(T, F)"""
    states: Tensor
    """int64, those of its tokens from left to right."""
    owners: Tensor
    """int64, the token of each of them, by its place in the text."""
    num_tokens: int
    seconds: float

    def durations(self, path: Tensor) -> list[float]:
        """Return the seconds of each token, given the place (T,) in the states of each frame."""
        counts = torch.bincount(self.owners[path], minlength=self.num_tokens).double()
        return (counts * (self.seconds / len(path))).tolist()


class Monophones(nn.Module):
    """Mixtures of normal densities with diagonal covariances, one for each state of each token.

    State 0 is nobody's: `viterbi_align` wants a blank, which is never taken here.
    """

    is_sound: Tensor
    """(V,) bool; other tokens are marks and silences."""
    means: Tensor
    """(Q, M, F)"""
    variances: Tensor
    """(Q, M, F)"""
    weights: Tensor
    """(Q, M)"""

    def __init__(self, config: MonophonesConfig, vocab_size: int) -> None:
        super().__init__()
        self.config = config
        self.num_states = 1 + STATES * vocab_size
        shape = self.num_states, config.num_densities, NUM_FEATURES
        self.register_buffer("is_sound", torch.zeros(vocab_size, dtype=torch.bool))
        self.register_buffer("means", torch.zeros(shape))
        self.register_buffer("variances", torch.ones(shape))
        self.register_buffer("weights", torch.full(shape[:2], 1 / config.num_densities))

    @classmethod
    def from_config(cls, config: MonophonesConfig, tokenizer: Tokenizer) -> "Monophones":
        """Build the model for the tokens of ``tokenizer``."""
        model = cls(config, tokenizer.vocab_size)
        model.is_sound.copy_(torch.tensor([is_speakable(piece) for piece in tokenizer.pieces]))
        return model

    def states_of(self, tokens: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Return the states of a text, and the place in it of the token that each belongs to, both int64.

        A mark that is repeated has none: the first one has all of the pause.
        """
        is_sound = self.is_sound.tolist()
        pairs = [
            (1 + STATES * token + part, place)
            for place, token in enumerate(tokens)
            for part in range(STATES if is_sound[token] else int(place == 0 or tokens[place - 1] != token))
        ]
        states, owners = zip(*pairs, strict=True)
        return torch.tensor(states), torch.tensor(owners)

    def read(self, wav: Tensor, tokens: Sequence[int]) -> Sentence | None:
        """Return samples (S,) at 16 kHz with their text, None if there is no text or they are too short for it."""
        if not tokens or len(wav) < N_FFT:
            return None
        states, owners = self.states_of(tokens)
        feats = features(wav)
        if len(feats) < len(states):
            return None
        return Sentence(feats, states, owners, len(tokens), len(wav) / RATE)

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

    def find(self, sentences: Sequence[Sentence]) -> tuple[list[Tensor | None], float]:
        """Align recordings with their texts.

        Returns:
            The place (T,) in its states of each frame of each, None for one that cannot be aligned; and the sum of all
            log-densities, in nats.
        """
        lens = torch.tensor([len(sentence.feats) for sentence in sentences])
        num_states = torch.tensor([len(sentence.states) for sentence in sentences])
        padded = pad_sequence([sentence.states for sentence in sentences], batch_first=True)
        feats = pad_sequence([sentence.feats for sentence in sentences], batch_first=True)
        scores = self.score(feats.to(self.means.device)).cpu()
        alignment = viterbi_align(scores, lens, padded, num_states, 0)
        frames = torch.arange(scores.size(1))
        # The place of a frame is the number of states that have begun, less one.
        starts = alignment.starts.masked_fill(~valid_mask(num_states, padded.size(1)), scores.size(1))
        places = torch.searchsorted(starts, frames.repeat(len(feats), 1), right=True) - 1
        found = [
            row[:length] if possible else None
            for row, length, possible in zip(places, lens.tolist(), alignment.possible.tolist(), strict=True)
        ]
        return found, float(alignment.scores.sum())

    @torch.no_grad()
    def durations(self, wav: Tensor, tokens: Sequence[int]) -> list[float] | None:
        """Return the seconds of each token of a text that is said in samples (S,) at 16 kHz; None: it is too long."""
        sentence = self.read(wav, tokens)
        if sentence is None:
            return None
        (path,), _ = self.find([sentence])
        return None if path is None else sentence.durations(path)

    def init_densities(self, feats: Tensor) -> None:
        """Start flat: one density in every state, that of all features (T, F)."""
        self.means = feats.mean(0).expand(self.num_states, 1, -1).clone()
        self.variances = feats.var(0).expand(self.num_states, 1, -1).clone()
        self.weights = torch.ones(self.num_states, 1)

    def fit(self, labelled: Iterable[tuple[Tensor, Tensor]]) -> None:
        """Estimate all densities anew from features (T, F) and the state (T,) of each frame.

        A state that is hardly heard stays as it was.
        """
        feats, labels = (torch.cat(parts) for parts in zip(*labelled, strict=True))
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
        variances = (squares - means**2).maximum(MIN_VARIANCE * feats.var(0))
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


def features(wav: Tensor) -> Tensor:
    """Return of samples (S,) at 16 kHz, `N_FFT` at least, cepstra with two differences (T, F), every 10 ms.

    They have no mean in the utterance, but for loudness, of which the loudest is 0.
    """
    cepstra = _cepstra(wav + 1e-5 * torch.randn(wav.shape, generator=torch.Generator().manual_seed(0)))
    loudness = cepstra[:1] - cepstra[:1].quantile(0.95)
    cepstra = torch.cat([loudness, cepstra[1:] - cepstra[1:].mean(1, keepdim=True)])
    slopes = _slopes(cepstra)
    return torch.cat([cepstra, slopes, _slopes(slopes)]).T.contiguous()


def _cepstra(wav: Tensor) -> Tensor:
    """Return the mel cepstra (`NUM_CEPSTRA`, T) of samples (S,), those of ``torchaudio.transforms.MFCC``.

    Not by torchaudio itself: each of its builds imports beside some builds of torch alone, PyPI's beside none for CPUs.
    """
    window = torch.hann_window(WIN_LENGTH)
    spectrum = torch.stft(wav, N_FFT, HOP, WIN_LENGTH, window, pad_mode="reflect", return_complex=True)
    log_mels = (_mel_matrix() @ spectrum.abs().square() + LOG_FLOOR).log()
    angles = math.pi / NUM_MELS * torch.outer(torch.arange(NUM_CEPSTRA), torch.arange(NUM_MELS) + 0.5)
    cosines = angles.cos() * math.sqrt(2 / NUM_MELS)  # an orthonormal DCT-II
    cosines[0] /= math.sqrt(2)
    return cosines @ log_mels


@functools.cache
def _mel_matrix() -> Tensor:
    """Return triangles (`NUM_MELS`, N_FFT / 2 + 1) of height 1, straight in Hz, at equal steps on HTK's mel scale."""
    low, high = (2595 * math.log10(1 + hz / 700) for hz in (F_MIN, RATE / 2))
    corners = 700 * (10 ** (torch.linspace(low, high, NUM_MELS + 2) / 2595) - 1)[:, None]
    bins = torch.linspace(0, RATE / 2, N_FFT // 2 + 1)
    widths = corners.diff(dim=0)
    rising, falling = (bins - corners[:-2]) / widths[:-1], (corners[2:] - bins) / widths[1:]
    return rising.minimum(falling).clamp(min=0)


def _slopes(x: Tensor) -> Tensor:
    """Return the slopes (C, T) of ``x`` by regression over five frames; beyond its ends it stays (HTK, chapter 5.9)."""
    weights = torch.tensor([[[-0.2, -0.1, 0.0, 0.1, 0.2]]])
    return F.conv1d(F.pad(x[:, None], (2, 2), mode="replicate"), weights)[:, 0]
