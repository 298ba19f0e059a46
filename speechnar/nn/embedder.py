"""What a parallel decoder sees of an utterance, and the interface of everything that cuts speech into tokens.

A non-autoregressive decoder needs one vector per token before it knows a single token. A `TokenEmbedder` makes them:
continuous integrate-and-fire (Paraformer), the segments of a CTC alignment (CASS-NAT), or the frames that CTC
posteriors compress to (Paraformer-v2).

Shapes: B utterances, T encoder frames, D model width, V vocabulary (blank included), U tokens.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

from torch import Tensor

from speechnar.nn.lengths import valid_mask


@dataclass(frozen=True, kw_only=True)
class EncodedSpeech:
    """Encoder output without prefix positions, and the CTC posteriors over it where the model has them."""

    enc: Tensor
    """(B, T, D), zero in padding."""
    lens: Tensor
    """(B,) frames."""
    log_probs: Tensor | None = None
    """(B, T, V) float32 CTC log-probabilities of blank and text tokens; languages and tasks count as blank."""
    states: Tensor | None = None
    """(B, T', E) of a pretrained encoder below ``enc``, zero in padding; None where there is none."""
    state_lens: Tensor | None = None
    """(B,) positions of ``states``."""

    @cached_property
    def valid(self) -> Tensor:
        """Bool (B, T): True = real frame."""
        return valid_mask(self.lens, self.enc.size(1))

    def at(self, rows: Tensor) -> "EncodedSpeech":
        """Return the utterances ``rows`` (N,)."""
        return EncodedSpeech(
            enc=self.enc[rows],
            lens=self.lens[rows],
            log_probs=None if self.log_probs is None else self.log_probs[rows],
            states=None if self.states is None else self.states[rows],
            state_lens=None if self.state_lens is None else self.state_lens[rows],
        )


@dataclass(frozen=True, kw_only=True)
class TokenEmbeddings:
    """One acoustic vector per token."""

    embeds: Tensor
    """(B, U, D), zero beyond ``lens``."""
    lens: Tensor
    """(B,) tokens; may be 0."""
    starts: Tensor
    """(B, U) int64: first frame of each token; 0 beyond ``lens``."""
    ends: Tensor
    """(B, U) int64: frame after the last one of each token; 0 beyond ``lens``."""


class TokenEmbedder(Protocol):
    """Cuts encoder output into tokens."""

    def __call__(
        self, speech: EncodedSpeech, tokens: Tensor | None = None, token_lens: Tensor | None = None
    ) -> TokenEmbeddings:
        """Embed the tokens of ``speech``.

        Args:
            speech: encoder output.
            tokens: (B, U) the reference, in training: the result has its number of tokens. None: find the number.
            token_lens: (B,) of ``tokens``.
        """
        ...
