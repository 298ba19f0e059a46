"""Continuous integrate-and-fire: weights of frames to one acoustic vector per token.

Every frame carries a weight (alpha); their running sum is an axis on which token u occupies the interval [u, u + 1).
A token's vector is the sum of the frames, each weighted by what its own interval on that axis shares with the token's.
Shapes: B utterances, T encoder frames, D model width, U tokens.
Sources: Dong and Xu, "CIF", ICASSP 2020, algorithm 1 and section 3.2 (scaled weights, quantity loss); Gao et al.,
"Paraformer", Interspeech 2022, section 2.2 (dynamic threshold); Shi et al., "Achieving Timestamp Prediction While
Recognizing with Non-autoregressive End-to-End ASR Model", 2023, section 4 (BiCIF: times from fires); Gao et al.,
"FunASR", Interspeech 2023, section 3.2 (second weights for the times).
Differs from the papers: they run frame by frame and fire at most once in each; intervals need one product of matrices
and let a frame close any number of tokens.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from speechnar.errors import ConfigError, ShapeError
from speechnar.nn.dropout import Dropout
from speechnar.nn.embedder import EncodedSpeech, TokenEmbeddings
from speechnar.nn.lengths import longest, valid_mask
from speechnar.nn.sanm import WindowedSpeech

CifThreshold = Literal["dynamic", "rounded", "fixed"]
PredictorConv = Literal["full", "depthwise"]

TAIL_WEIGHT = 0.45
"""What a fixed threshold adds behind the last frame, so that a rest of 0.55 still fires."""
_TOLERANCE = 1e-6  # weights are float32: sums that should be whole are whole to about this


@dataclass(frozen=True, kw_only=True)
class CifEmbeddings(TokenEmbeddings):
    """Tokens that were integrated, and the weights they came from."""

    alphas: Tensor
    """(B, T) float32 weights as predicted, before any scaling; zero in padding."""


def integrate_and_fire(
    enc: Tensor,
    alphas: Tensor,
    lens: Tensor,
    num_tokens: Tensor | None = None,
    *,
    max_tokens: int | None = None,
    threshold: CifThreshold = "dynamic",
) -> TokenEmbeddings:
    """Integrate frames into tokens (CIF, algorithm 1, here without a loop over frames).

    Without ``num_tokens`` the weights decide how many tokens there are. ``dynamic``: their sum rounded up, at a
    threshold of sum / number (Paraformer, section 2.2). ``rounded``: the same with the nearest number. ``fixed``: a
    token for each whole unit, and one for a rest of at least 0.55, whose vector is not scaled up (FunASR's rule for a
    single utterance, here in any batch).

    Args:
        enc: (B, T, D), finite in padding.
        alphas: (B, T) weights, at least 0; those in padding are ignored.
        lens: (B,) frames.
        num_tokens: (B,) in training: the weights are scaled so that exactly so many tokens fire (CIF, section 3.2).
        max_tokens: U, if the caller knows it; else it is the largest number found, at least 1, which costs a sync.
        threshold: what happens without ``num_tokens``.

    Raises:
        ShapeError: the tensors do not fit each other.
    """
    if enc.dim() != 3 or alphas.shape != enc.shape[:2] or lens.shape != enc.shape[:1]:
        raise ShapeError(
            "integration needs enc (B, T, D), alphas (B, T) and lens (B,), "
            f"got {tuple(enc.shape)}, {tuple(alphas.shape)}, {tuple(lens.shape)}"
        )
    valid = valid_mask(lens, enc.size(1))
    reached = alphas.masked_fill(~valid, 0.0).double().cumsum(1)  # where each frame's interval ends, (B, T)
    total = reached[:, -1]
    scaled = num_tokens is not None or threshold != "fixed"
    if num_tokens is not None:
        token_lens = num_tokens
    elif threshold == "dynamic":
        token_lens = (total.detach() - _TOLERANCE).ceil().clamp(min=0).long()
    elif threshold == "rounded":
        token_lens = (total.detach() + 0.5).floor().long()
    else:
        token_lens = (total.detach() + TAIL_WEIGHT + _TOLERANCE).floor().long()
    if scaled:
        reached = reached * (token_lens / total.clamp(min=_TOLERANCE))[:, None]
    if max_tokens is None:
        max_tokens = longest(token_lens, least=1)
    weights = _shares(reached.new_zeros(reached.size(0)), reached, max_tokens)
    is_token = valid_mask(token_lens, max_tokens)
    embeds = torch.bmm(weights.masked_fill(~is_token[..., None], 0.0).to(enc.dtype), enc)
    starts, ends = _frames(reached.detach(), max_tokens)
    ends = ends.minimum(lens[:, None])
    starts = starts.minimum(ends - 1)
    return TokenEmbeddings(
        embeds=embeds,
        lens=token_lens,
        starts=starts.masked_fill(~is_token, 0),
        ends=ends.masked_fill(~is_token, 0),
    )


def _shares(before: Tensor, reached: Tensor, max_tokens: int) -> Tensor:
    """Return what each frame gives to each token, (B, U, T): how far the frame's interval lies in the token's.

    The first frame's interval begins at ``before`` (B,), each ends at ``reached`` (B, T) and begins where the one
    before it ends.
    """
    numbers = torch.arange(max_tokens, device=reached.device, dtype=reached.dtype)[:, None]
    edges = torch.cat([before[:, None], reached], dim=1)
    return (edges[:, None] - numbers).clamp(0.0, 1.0).diff(dim=2)


def _frames(reached: Tensor, max_tokens: int) -> tuple[Tensor, Tensor]:
    """Return the first frame of each token and the one after its last, (B, U) each, T or T + 1 if they are to come."""
    numbers = torch.arange(max_tokens, device=reached.device, dtype=reached.dtype)[:, None]
    reached = reached[:, None]  # never falls: to count what is below is to search
    ends = (reached < numbers + (1 - _TOLERANCE)).sum(2) + 1
    return (reached <= numbers + _TOLERANCE).sum(2), ends


@dataclass
class CifStream:
    """Integration of one utterance piece by piece, at a fixed threshold; equal to `integrate_and_fire` of the whole."""

    _held: Tensor | None = None
    """(1,) float64 weight integrated for the token that has not fired."""
    _part: Tensor | None = None
    """(1, D) its vector so far."""
    _start: int = 0
    """Its first frame."""
    _num_frames: int = 0

    @property
    def next_start(self) -> int:
        """First frame of the token that has not fired, as far as is known."""
        return self._start

    def integrate(self, enc: Tensor, alphas: Tensor, *, is_last: bool) -> TokenEmbeddings:
        """Take frames ``enc`` (1, T, D) and weights (1, T); return the tokens that fire, in frames of the utterance."""
        before = alphas.new_zeros(1, dtype=torch.float64) if self._held is None else self._held
        reached = before[:, None] + alphas.double().cumsum(1)
        total, num_frames = float(reached[0, -1]), enc.size(1)
        num = int(total + (TAIL_WEIGHT if is_last else 0.0) + _TOLERANCE)
        vectors = torch.bmm(_shares(before, reached, num + 1).to(enc.dtype), enc)
        if self._part is not None:
            vectors[:, 0] += self._part
        starts, ends = _frames(reached, num + 1)
        starts, ends = starts + self._num_frames, ends.clamp(max=num_frames) + self._num_frames
        if float(before) > _TOLERANCE:
            starts[:, 0] = self._start
        self._held, self._part = reached[:, -1] - num, vectors[:, num]
        self._start, self._num_frames = int(starts[0, num]), self._num_frames + num_frames
        lens = torch.tensor([num], device=enc.device)
        starts = starts.minimum(ends - 1)
        return TokenEmbeddings(embeds=vectors[:, :num], lens=lens, starts=starts[:, :num], ends=ends[:, :num])


def quantity_loss(alphas: Tensor, num_tokens: Tensor) -> Tensor:
    """Return |sum of ``alphas`` (B, T) - ``num_tokens`` (B,)| as (B,) float32 (CIF, section 3.2)."""
    return (alphas.sum(1, dtype=torch.float32) - num_tokens).abs()


class CifPredictor(nn.Module):
    """Predicts the weight of every frame and integrates: the `TokenEmbedder` of Paraformer.

    Always float32: bfloat16 cannot sum to the right number of tokens.
    """

    def __init__(
        self,
        model_dim: int,
        *,
        conv: PredictorConv = "full",
        smooth_factor: float = 1.0,
        noise_threshold: float = 0.0,
        threshold: CifThreshold = "dynamic",
        dropout: float = 0.1,
    ) -> None:
        """Build the predictor.

        Args:
            model_dim: D.
            conv: ``full`` is the second version in FunASR; ``depthwise`` is its first, residual and with dropout.
            smooth_factor: s of alpha = relu(s * sigmoid(x) - n).
            noise_threshold: n of the same.
            threshold: see `integrate_and_fire`.
            dropout: of the depthwise version.

        Raises:
            ConfigError: no weight could ever be positive.
        """
        super().__init__()
        if smooth_factor <= noise_threshold:
            raise ConfigError(
                f"smooth_factor must exceed noise_threshold for any token to fire, "
                f"got {smooth_factor} and {noise_threshold}"
            )
        self.smooth_factor = smooth_factor
        self.noise_threshold = noise_threshold
        self.threshold: CifThreshold = threshold
        self.residual = conv == "depthwise"
        self.conv = nn.Conv1d(model_dim, model_dim, 3, padding=1, groups=model_dim if self.residual else 1)
        self.dropout = Dropout(dropout if self.residual else 0.0)
        self.proj = nn.Linear(model_dim, 1)

    def alphas(self, enc: Tensor, valid: Tensor) -> Tensor:
        """Map ``enc`` (B, T, D), zero where ``valid`` (B, T) is False, to weights (B, T), float32, zero there."""
        with torch.autocast(enc.device.type, enabled=False):
            x = enc.to(self.proj.weight.dtype)
            y = self.conv(x.transpose(1, 2)).transpose(1, 2)
            if self.residual:
                y = self.dropout(y + x)
            y = self.proj(y.relu()).squeeze(2).sigmoid()
            return (self.smooth_factor * y - self.noise_threshold).relu().masked_fill(~valid, 0.0)

    def weigh(self, speech: EncodedSpeech) -> Tensor:
        """Return the weights (B, T) of the frames; those of windows are found in each window alone."""
        if not isinstance(speech, WindowedSpeech):
            return self.alphas(speech.enc, speech.valid)
        alphas = self.alphas(speech.windows.flatten(0, 1), speech.windows_valid.flatten(0, 1))
        return speech.of_frames(alphas.view(speech.windows.shape[:3])).masked_fill(~speech.valid, 0.0)

    def forward(
        self, speech: EncodedSpeech, tokens: Tensor | None = None, token_lens: Tensor | None = None
    ) -> CifEmbeddings:
        """Integrate ``speech`` into as many tokens as ``tokens`` (B, U) has, or as the weights say."""
        alphas = self.weigh(speech)
        cut = integrate_and_fire(
            speech.enc,
            alphas,
            speech.lens,
            token_lens,
            max_tokens=None if tokens is None else tokens.size(1),
            threshold=self.threshold,
        )
        starts, ends = cut.starts, cut.ends
        if isinstance(speech, WindowedSpeech) and speech.config.lead_frames:  # frames of the utterance are counted
            starts = (starts - speech.config.lead_frames).clamp(min=0)
            ends = (ends - speech.config.lead_frames).clamp(min=1).minimum(ends)
        return CifEmbeddings(embeds=cut.embeds, lens=cut.lens, starts=starts, ends=ends, alphas=alphas)


MAX_TOKEN_STEPS = 12
"""A token ends after so many steps of 20 ms; what follows is silence (FunASR's constant)."""
MAX_END_STEPS = 5
"""If more is left behind the last fire, the last token takes half of it only (FunASR's constant)."""
FIRE_SHIFT_STEPS = -1.5
"""Tokens begin earlier than the second weights fire (FunASR's constant)."""
_FIRE_STEP = 1.0 - 1e-4  # FunASR's threshold: the last fire must not be lost to rounding


class TimestampPredictor(nn.Module):
    """Second weights, several per frame, that fire where tokens begin (FunASR, section 3.2)."""

    def __init__(
        self, model_dim: int, *, steps_per_frame: int = 3, smooth_factor: float = 0.25, noise_threshold: float = 0.01
    ) -> None:
        super().__init__()
        if smooth_factor <= noise_threshold:
            raise ConfigError(
                f"smooth_factor must exceed noise_threshold for any token to fire, "
                f"got {smooth_factor} and {noise_threshold}"
            )
        self.steps_per_frame = steps_per_frame
        self.smooth_factor = smooth_factor
        self.noise_threshold = noise_threshold
        self.upsample = nn.ConvTranspose1d(model_dim, model_dim, steps_per_frame, steps_per_frame)
        self.blstm = nn.LSTM(model_dim, model_dim, batch_first=True, bidirectional=True)
        self.proj = nn.Linear(2 * model_dim, 1)

    def alphas(self, enc: Tensor, lens: Tensor) -> Tensor:
        """Map ``enc`` (B, T, D) to weights (B, T * steps_per_frame), float32, zero beyond ``lens`` (B,).

        Differs from FunASR: the recurrence stops at the end of each utterance and does not see padding.
        """
        with torch.autocast(enc.device.type, enabled=False):
            x = self.upsample(enc.to(self.proj.weight.dtype).transpose(1, 2)).transpose(1, 2)
            step_lens = lens * self.steps_per_frame
            packed = pack_padded_sequence(x, step_lens.cpu(), batch_first=True, enforce_sorted=False)
            y, _ = pad_packed_sequence(self.blstm(packed)[0], batch_first=True, total_length=x.size(1))
            y = (self.smooth_factor * self.proj(y).squeeze(2).sigmoid() - self.noise_threshold).relu()
            return y.masked_fill(~valid_mask(step_lens, y.size(1)), 0.0)

    def spans(self, enc: Tensor, lens: Tensor, token_lens: Tensor) -> tuple[Tensor, Tensor]:
        """Return where ``token_lens`` (B,) tokens start and end in ``enc`` (B, T, D): (B, U) float64 frames each."""
        starts, ends = spans_of_fires(self.alphas(enc, lens), lens * self.steps_per_frame, token_lens)
        return starts / self.steps_per_frame, ends / self.steps_per_frame


def spans_of_fires(alphas: Tensor, lens: Tensor, token_lens: Tensor) -> tuple[Tensor, Tensor]:
    """Return starts and ends, in steps, (B, U) float64 each, of ``token_lens`` (B,) tokens; 0 where there is none.

    The weights ``alphas`` (B, T), zero beyond ``lens`` (B,), are scaled to one fire more than there are tokens: token
    u lasts from fire u to fire u + 1, at most `MAX_TOKEN_STEPS`. The rule is FunASR's ``ts_prediction_lfr6_standard``.
    """
    reached = alphas.double().cumsum(1)
    reached = reached * ((token_lens + 1) / reached[:, -1].clamp(min=_TOLERANCE))[:, None]
    num_fires = max(1, int(token_lens.max())) + 1
    thresholds = (torch.arange(1, num_fires + 1, device=alphas.device, dtype=torch.float64) * _FIRE_STEP).expand(
        alphas.size(0), -1
    )
    steps = torch.searchsorted(reached.contiguous(), thresholds.contiguous()).minimum(lens[:, None] - 1)
    fires = (steps + FIRE_SHIFT_STEPS).clamp(min=0.0)
    starts, ends = fires[:, :-1], fires[:, 1:]
    numbers, total = torch.arange(num_fires - 1, device=alphas.device), lens[:, None].double()
    last_end = total.where(total - ends <= MAX_END_STEPS, (total + ends) / 2)
    is_short = ends - starts <= MAX_TOKEN_STEPS
    is_last = numbers == token_lens[:, None] - 1
    ends = last_end.where(is_last, ends).where(is_short, starts + MAX_TOKEN_STEPS)
    is_token = numbers < token_lens[:, None]
    return starts.masked_fill(~is_token, 0.0), ends.masked_fill(~is_token, 0.0)
