"""Which of several alignments of an utterance is kept: error-based sampling draws them, a ranker or CTC chooses.

Shapes: B utterances, D model width, V vocabulary (blank included), U tokens; N alignments of U + 1 slots.
Source: Fan et al., "A CTC Alignment-based Non-autoregressive Transformer for End-to-end Automatic Speech Recognition",
TASLP 2023, section III-C; the draws are those of `speechnar.decode.esa`.

Differs from the paper:
- without a ranker, CTC's likelihood of the tokens chooses, which costs no second model.
- of the alignments drawn, `KEPT_ALIGNMENTS` are decoded; None decodes all, as in the paper.
"""

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from speechnar.decode.esa import NamedSlots, best_rows, best_tokens, ctc_log_likelihood, name_slots
from speechnar.decode.segments import Segments
from speechnar.models.asr.token_acoustic_embedder import posteriors
from speechnar.nn.embedder import EncodedSpeech

KEPT_ALIGNMENTS = 4
"""Of those drawn for an utterance, how many are decoded: of a batch of 8 on a CPU, more take longer than decoding
autoregressively."""
ALIGNMENTS_AT_ONCE = 32
"""Whose posteriors over the vocabulary are in memory together while decoding."""


class Ranker(Protocol):
    """Scores candidates; `speechnar.models.asr.transformer_ar.TransformerArHead.score` is one."""

    def __call__(self, speech: EncodedSpeech, utterance_index: Tensor, tokens: Tensor, token_lens: Tensor) -> Tensor:
        """Return log p(tokens, end of sentence | speech) of N candidates, (N,) nats.

        Args:
            speech: encoder output of all utterances.
            utterance_index: (N,) the utterance of each candidate.
            tokens: (N, U); padding may hold anything.
            token_lens: (N,)
        """


def name_in_parts(
    x: Tensor, segments: Segments, log_probs: Callable[[Tensor], Tensor], *, never: tuple[int, ...], eos_id: int
) -> NamedSlots:
    """Name the slots ``x`` (N, U + 1, D), whose ``log_probs`` all together would be the largest tensor by far."""
    parts = [best_tokens(log_probs(part), never) for part in torch.split(x, ALIGNMENTS_AT_ONCE)]
    tokens, scores = (torch.cat(column) for column in zip(*parts, strict=True))
    return name_slots(tokens, scores, segments, eos_id=eos_id)


def choose(
    named: NamedSlots, speech: EncodedSpeech, utterance_index: Tensor, *, ranker: Ranker | None, blank_id: int
) -> NamedSlots:
    """Keep the best alignment of each utterance: by ``ranker`` per slot, or by CTC's likelihood of the tokens."""
    text_index, tokens, token_lens, text = named.texts(utterance_index)
    if ranker is None:
        scores = ctc_log_likelihood(
            posteriors(speech), speech.lens, tokens, token_lens, utterance_index=text_index, blank_id=blank_id
        )
    else:
        scores = ranker(speech, text_index, tokens, token_lens) / (token_lens + 1)
    return named.at(best_rows(scores[text], utterance_index, len(speech.lens)))
