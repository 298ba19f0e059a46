"""Draft and verify: an autoregressive model reads a proposed text in one pass and writes on where it disagrees.

Without a bias the result is what the model writes by itself, token for token, whatever the draft: a good draft saves
evaluations, a bad one costs some. With a bias, old text stays unless the model objects by more than that, which lowers
flicker.

Shapes: U tokens of a call, V vocabulary.
Sources: Sun et al., "Instantaneous Grammatical Error Correction with Shallow Aggressive Decoding", ACL 2021, section 3;
Xia et al., "Speculative Decoding: Exploiting Speculative Execution for Accelerating Seq2seq Generation", Findings of
EMNLP 2023 (a non-autoregressive model drafts); Zeng et al., "Self-Speculative Biased Decoding for Faster Live
Translation", arXiv 2509.21740, 2025 (the draft is the previous output, and verification leans to it).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from speechnar.errors import ConfigError

Propose = Callable[[list[int]], Sequence[int]]
"""Returns what might follow the tokens accepted so far; nothing, where there is no idea."""


class Verifier(Protocol):
    """An autoregressive model in the middle of one text: it keeps what it needs of the tokens that it was given."""

    def __call__(self, tokens: Tensor) -> Tensor:
        """Take ``tokens`` (U,) behind those before; return log-probabilities (U, V) of what follows each of them."""
        ...

    def truncate(self, length: int) -> None:
        """Forget all but the first ``length`` tokens."""


@dataclass(frozen=True, kw_only=True)
class Verified:
    """The text that verification ended in."""

    tokens: list[int]
    evaluations: int
    """Passes of the verifier, one after another."""
    num_drafted: int
    """Tokens that were not written one by one but taken from drafts."""


def verify(
    verifier: Verifier,
    draft: Sequence[int],
    *,
    sos_id: int,
    eos_id: int,
    max_len: int,
    bias: float = 0.0,
    num_biased: int | None = None,
    propose: Propose | None = None,
    device: torch.device | str = "cpu",
) -> Verified:
    """Accept as much of ``draft`` as the model would write itself, write one token more, and so on to the end.

    Args:
        verifier: fresh; -inf for what must not be emitted.
        draft: previous output, perhaps with a proposal behind; without the end.
        sos_id: the first input.
        eos_id: ends the text.
        max_len: tokens at which it is cut off.
        bias: weight of the draft in the distributions it is verified by, until the first rejection; in [0, 1). 0: the
            result is that of a greedy search.
        num_biased: how many tokens of ``draft`` are favoured; None: all.
        propose: drafts for what comes behind a rejection, and behind the end of ``draft``. They are verified without
            bias. None: one token at a time.
        device: of the verifier.

    Raises:
        ConfigError: ``bias`` is not in [0, 1), or the draft holds the end.
    """
    if not 0 <= bias < 1:
        raise ConfigError(f"bias must lie in [0, 1), got {bias}")
    if eos_id in draft:
        raise ConfigError(f"a draft must not hold the end of the sentence ({eos_id}), got {list(draft)}")
    accepted: list[int] = []
    num_drafted = evaluations = 0
    slack = bias / (1 - bias)
    newest, drafted = sos_id, list(draft[:max_len])
    while len(accepted) < max_len:
        log_probs = verifier(torch.tensor([newest, *drafted], device=device))
        evaluations += 1
        peaks, best = log_probs.max(dim=1)
        slacks = torch.full((len(drafted),), slack, device=log_probs.device)
        if num_biased is not None:
            slacks[num_biased:] = 0.0
        num_accepted = _num_accepted(log_probs, peaks, best, drafted, slacks if slack else None)
        accepted += drafted[:num_accepted]
        num_drafted += num_accepted
        newest = int(best[num_accepted])
        if len(accepted) >= max_len or newest == eos_id:
            break
        accepted.append(newest)
        verifier.truncate(len(accepted))  # the start, and all but the newest
        slack = 0.0
        proposed = () if propose is None else propose(accepted)
        drafted = [token for token in proposed if token != eos_id][: max_len - len(accepted)]
    return Verified(tokens=accepted, evaluations=evaluations, num_drafted=num_drafted)


def _num_accepted(log_probs: Tensor, peaks: Tensor, best: Tensor, drafted: list[int], slacks: Tensor | None) -> int:
    if not drafted:
        return 0
    ids = torch.tensor(drafted, device=log_probs.device)
    agrees = best[:-1] == ids
    if slacks is not None:
        # (1 - b) p + b of the draft's token beats (1 - b) p of the best one.
        chosen = log_probs[:-1].gather(1, ids[:, None]).squeeze(1)
        agrees |= (slacks > 0) & (chosen.exp() + slacks >= peaks[:-1].exp())
    return int(agrees.long().cumprod(0).sum())


def rest_of(proposal: Sequence[int], accepted: Sequence[int]) -> list[int]:
    """Return what follows in ``proposal`` where it says what was accepted last.

    Of several such places the one nearest to where it should be is taken; if there is none, the token in its place
    counts as replaced.
    """
    if not accepted:
        return list(proposal)
    place = len(accepted) - 1
    same = [i for i, token in enumerate(proposal) if token == accepted[-1]]
    if same:
        place = min(same, key=lambda i: (abs(i - place), i))
    return list(proposal[place + 1 :])
