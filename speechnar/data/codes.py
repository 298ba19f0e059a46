"""Sound as a generator sees it: codes of a codec, and what is told about the sound; from files that are written once.

``speechnar data codes`` writes the file `CODES_FILE` into a data directory.

Shapes: B utterances, K codebooks, T frames, U text tokens.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pydantic import PositiveInt
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from speechnar.config import Config
from speechnar.data.kaldi import read_kaldi_dir
from speechnar.data.resumable import ResumableBatches
from speechnar.errors import DataError
from speechnar.text.tokenizer import Tokenizer

CODES_FILE = "codes.safetensors"


@dataclass(frozen=True, kw_only=True)
class CodeBatch:
    """Padded utterances; padding may hold any code."""

    codes: Tensor
    """(B, K, T) int64."""
    code_lens: Tensor
    """(B,) frames."""
    tokens: Tensor
    """(B, U) int64 ids of the text, padded by the tokenizer's ``pad_id``."""
    token_lens: Tensor
    """(B,)"""
    utt_ids: tuple[str, ...]

    def to(self, device: torch.device | str) -> "CodeBatch":
        """Return the batch with every tensor on ``device``."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        moved: dict[str, Any] = {name: value.to(device) for name, value in values.items() if isinstance(value, Tensor)}
        return replace(self, **moved)


class CodeDataConfig(Config):
    """Which codes, in what portions."""

    kind: Literal["codes"] = "codes"
    train: Path | tuple[Path, ...]
    """Data directories with codes."""
    dev: Path | tuple[Path, ...]
    batch_frames: PositiveInt = 12_000
    """Frames of a batch with their padding: longest utterance times their number."""


class CodeDataset(ResumableBatches[list[str], CodeBatch]):
    """The coded utterances of data directories, as batches of at most ``batch_frames`` frames with their padding.

    In training the order is drawn anew for each epoch, from (seed, epoch); the position is (epoch, batches done).

    Raises:
        DataError: a directory is malformed, lacks its codes or some of them, or two of them share an id.
    """

    def __init__(
        self, folders: Sequence[Path], tokenizer: Tokenizer, *, batch_frames: int, training: bool, seed: int
    ) -> None:
        super().__init__()
        self.batch_frames = batch_frames
        self.training = training
        self.seed = seed
        self.pad_id = tokenizer.pad_id
        self.codes: dict[str, Tensor] = {}
        self.texts: dict[str, list[int]] = {}
        for folder in folders:
            codes = read_codes(folder)
            for utterance in read_kaldi_dir(folder):
                utt_id = utterance.utt_id
                if utt_id not in codes:
                    raise DataError(
                        f"{folder / CODES_FILE}: has no codes of utterance {utt_id!r}; extract them again "
                        "(speechnar data codes)"
                    )
                if utt_id in self.codes:
                    raise DataError(f"utterance id {utt_id!r} is repeated; ids must differ across directories")
                self.codes[utt_id] = codes[utt_id]
                self.texts[utt_id] = tokenizer.encode(utterance.text)

    def __len__(self) -> int:
        """Return the number of utterances."""
        return len(self.codes)

    def _plan(self, epoch: int) -> Iterator[list[str]]:
        utt_ids = sorted(self.codes)
        if self.training:
            np.random.default_rng((self.seed, epoch)).shuffle(utt_ids)
        group: list[str] = []
        longest = 0
        for utt_id in utt_ids:
            longest = max(longest, self.codes[utt_id].size(1))
            if group and longest * (len(group) + 1) > self.batch_frames:
                yield group
                group, longest = [], self.codes[utt_id].size(1)
            group.append(utt_id)
        if group:
            yield group

    def _batch(self, epoch: int, plan: list[str]) -> CodeBatch:
        codes = [self.codes[utt_id].long().T for utt_id in plan]
        texts = [torch.tensor(self.texts[utt_id], dtype=torch.int64) for utt_id in plan]
        pad = torch.nn.utils.rnn.pad_sequence
        return CodeBatch(
            codes=pad(codes, batch_first=True).transpose(1, 2),
            code_lens=torch.tensor([len(rows) for rows in codes]),
            tokens=pad(texts, batch_first=True, padding_value=self.pad_id),
            token_lens=torch.tensor([len(text) for text in texts]),
            utt_ids=tuple(plan),
        )


def read_codes(folder: Path) -> dict[str, Tensor]:
    """Return the codes (K, T) of the utterances of a data directory, by id.

    Raises:
        DataError: there is no such file, or it is unreadable.
    """
    path = folder / CODES_FILE
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        reason = " ".join(str(error).split())[:200]
        raise DataError(f"{path}: cannot be read ({reason}); write it by speechnar data codes") from None
