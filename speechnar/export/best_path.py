"""The text tokens of a best path, found within a graph: for programs that bring no search of their own, or another.

Shapes: B utterances, T positions, V vocabulary, U tokens.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from speechnar.export.recogniser import WavToLogProbs, WavToTokens
from speechnar.nn.lengths import longest, valid_mask
from speechnar.text.tokenizer import WORD_START, Tokenizer


def silent_pieces(tokenizer: Tokenizer) -> Tensor:
    """Return bool (V,): True where an id is no text, as every special but the unknown piece, which is shown."""
    ids = range(tokenizer.vocab_size)
    return torch.tensor([tokenizer.is_special(i) and i != tokenizer.unk_id for i in ids])


def text_bytes(tokenizer: Tokenizer, unknown: str) -> dict[int, bytes]:
    """Return what each id that is text adds to it, as bytes of UTF-8: a piece may be a part of a character."""
    is_silent = silent_pieces(tokenizer).tolist()
    shown = {i: piece for i, piece in enumerate(tokenizer.word_pieces) if not is_silent[i]}
    shown[tokenizer.unk_id] = unknown
    return {i: piece.replace(WORD_START, " ").encode("utf-8", "surrogateescape") for i, piece in shown.items()}


class BestPath(nn.Module):
    """From samples to the text tokens of the best path."""

    is_silent: Tensor

    def __init__(self, graph: WavToLogProbs | WavToTokens, tokenizer: Tokenizer) -> None:
        super().__init__()
        self.graph = graph
        self.blank_id = tokenizer.blank_id
        self.register_buffer("is_silent", silent_pieces(tokenizer))

    def forward(self, wav: Tensor, wav_lens: Tensor) -> tuple[Tensor, Tensor]:
        """Map wav (B, S) and wav_lens (B,) to tokens (B, U), blank beyond their number, and their number (B,)."""
        found = self.graph(wav, wav_lens)
        if isinstance(self.graph, WavToLogProbs):
            return collapsed(*found, blank_id=self.blank_id, is_silent=self.is_silent)
        tokens, lens = found[0], found[-1]
        keep = valid_mask(lens, tokens.size(1)) & ~self.is_silent[tokens]
        return side_by_side(tokens, keep, fill=self.blank_id)


def collapsed(log_probs: Tensor, lens: Tensor, *, blank_id: int, is_silent: Tensor) -> tuple[Tensor, Tensor]:
    """Return the best label of each frame of ``log_probs`` (B, T, V), repeats merged, and what ``is_silent`` dropped.

    They are (B, U), blank beyond their number (B,).
    """
    labels = log_probs.argmax(2)
    is_new = F.pad(labels[:, 1:] != labels[:, :-1], (1, 0), value=True)
    keep = is_new & valid_mask(lens, labels.size(1)) & ~is_silent[labels]
    return side_by_side(labels, keep, fill=blank_id)


def side_by_side(tokens: Tensor, keep: Tensor, *, fill: int) -> tuple[Tensor, Tensor]:
    """Return of ``tokens`` (B, T) those to ``keep``, (B, U), ``fill`` beyond their number (B,)."""
    num = tokens.size(1)
    lens = keep.sum(1)
    places = (keep.cumsum(1) - 1).where(keep, num)  # the others go to a bin of their own
    moved = tokens.new_full((tokens.size(0), num + 1), fill).scatter(1, places, tokens.where(keep, fill))
    # A graph has two columns at least: the bin is one, and there may be a single frame.
    return F.pad(moved, (0, 1), value=fill).index_select(1, torch.arange(longest(lens))), lens
