"""From utterances as drawn (samples and strings) to padded tensors in the layout of OWSM-CTC.

A target is ``<lang><task> text``; a model is also told language and task (the prefix; the language may be withheld as
``<nolang>``) and the text spoken before (the prompt, or the single ``<na>``). A tokenizer without these specials gives
plain text targets and neither prefix nor prompt.

Shapes: B utterances, S samples, U tokens, P prompt tokens.
Source: OWSM-CTC, Peng et al., ACL 2024, section 3; the layout is that of ESPnet's ``s2t_ctc``.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from speechnar.errors import DataError
from speechnar.text.tokenizer import ASR, NA, NOLANG, Tokenizer


@dataclass(frozen=True)
class Example:
    """One utterance as it is to be learned this time."""

    utt_id: str
    wav: NDArray[np.float32]
    """(S,) samples in [-1, 1] or slightly beyond, where augmentation made them louder."""
    asr_text: str
    """What is said, or ``<na>``."""
    lang: str | None = None
    """ISO 639-3, required by a tokenizer with task specials."""
    translate_to: str | None = None
    """Language of ``translation``; None asks for recognition."""
    translation: str | None = None
    hide_lang: bool = False
    """Tell the model ``<nolang>`` instead of the language; the target names it all the same."""
    prev_text: str | None = None
    spk_id: str = ""
    """Who speaks; empty where nobody said."""
    durations: tuple[float, ...] | None = None
    """Seconds of each token of ``asr_text``."""
    feats: NDArray[np.float16] | None = None
    """(T, F) stored output of a model's frozen part, in place of ``wav``."""


@dataclass(frozen=True)
class SpeechBatch:
    """Padded utterances; waveforms are padded by 0, ids by the tokenizer's ``pad_id``."""

    wav: Tensor
    """(B, S) float32."""
    wav_lens: Tensor
    """(B,) samples."""
    tokens: Tensor
    """(B, U) the task's target: the transcript or its translation."""
    token_lens: Tensor
    asr_tokens: Tensor
    """(B, U) the transcript, whatever the task (with the same first two ids as ``tokens``)."""
    asr_token_lens: Tensor
    tokens_valid: Tensor
    """(B,) bool: False where the text is not available, and its loss must not count."""
    asr_valid: Tensor
    utt_ids: tuple[str, ...]
    prefix: Tensor | None = None
    """(B, 2) ids of language and task."""
    prompt: Tensor | None = None
    """(B, P) ids of the text before."""
    prompt_lens: Tensor | None = None
    sample_rate: int = 16000
    speakers: tuple[str, ...] = ()
    """Who speaks in each utterance (B); empty where nobody said."""
    durations: Tensor | None = None
    """(B, U) float32 seconds of each of ``asr_tokens`` (language and task last 0), 0 in padding; None: not known."""
    feats: Tensor | None = None
    """(B, T, F) float32 stored output of a model's frozen part; ``wav`` is then silent."""
    feat_lens: Tensor | None = None
    """(B,) frames of ``feats``."""

    def to(self, device: torch.device | str) -> "SpeechBatch":
        """Return the batch with every tensor on ``device``."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        moved: dict[str, Any] = {name: value.to(device) for name, value in values.items() if isinstance(value, Tensor)}
        return replace(self, **moved)

    @property
    def seconds(self) -> float:
        """Return the seconds of audio, padding not counted."""
        return float(self.wav_lens.sum()) / self.sample_rate


class SpeechCollator:
    """Encodes and pads examples with one tokenizer."""

    def __init__(self, tokenizer: Tokenizer, *, sample_rate: int = 16000) -> None:
        self.tokenizer = tokenizer
        self.sample_rate = sample_rate
        pieces = set(tokenizer.pieces)
        self.has_tasks = {NA, NOLANG, ASR} <= pieces
        """Whether targets start with language and task, and batches have a prefix and a prompt."""
        self.languages = frozenset(tokenizer.language_ids()) if self.has_tasks else frozenset[str]()
        """Languages that can be named, if any."""
        self.translates_to = frozenset(lang for lang in self.languages if _task(lang) in pieces)

    def __call__(self, examples: Sequence[Example]) -> SpeechBatch:
        """Return the batch of ``examples``, in their order.

        Raises:
            DataError: an example lacks its language, or names one the tokenizer does not know; or only some examples
                have durations, or not one for each token.
        """
        wav, wav_lens = _pad([torch.from_numpy(example.wav) for example in examples], 0.0)
        tokens, token_lens = self._pad_ids([self._target(example, self._task_text(example)) for example in examples])
        asr_targets = [self._target(example, example.asr_text) for example in examples]
        asr_tokens, asr_token_lens = self._pad_ids(asr_targets)
        feats, feat_lens = _pad_features(examples)
        prefix, prompt, prompt_lens = self._conditions(examples) if self.has_tasks else (None, None, None)
        return SpeechBatch(
            wav=wav,
            wav_lens=wav_lens,
            tokens=tokens,
            token_lens=token_lens,
            asr_tokens=asr_tokens,
            asr_token_lens=asr_token_lens,
            tokens_valid=torch.tensor([self._task_text(example) != NA for example in examples]),
            asr_valid=torch.tensor([example.asr_text != NA for example in examples]),
            utt_ids=tuple(example.utt_id for example in examples),
            prefix=prefix,
            prompt=prompt,
            prompt_lens=prompt_lens,
            sample_rate=self.sample_rate,
            speakers=tuple(example.spk_id for example in examples),
            durations=self._durations(examples, asr_targets),
            feats=feats,
            feat_lens=feat_lens,
        )

    def _task_text(self, example: Example) -> str:
        return example.asr_text if example.translate_to is None else example.translation or NA

    def _target(self, example: Example, text: str) -> list[int]:
        ids = self.tokenizer.encode(text)
        return [*self._lang_and_task(example), *ids] if self.has_tasks else ids

    def _lang_and_task(self, example: Example) -> tuple[int, int]:
        if example.lang not in self.languages:
            raise DataError(
                f"utterance {example.utt_id!r}: its language must be one of {', '.join(sorted(self.languages))} "
                f"(utt2lang), got {example.lang!r}"
            )
        task = ASR if example.translate_to is None else _task(example.translate_to)
        return self.tokenizer.id_of(f"<{example.lang}>"), self.tokenizer.id_of(task)

    def _durations(self, examples: Sequence[Example], targets: Sequence[Sequence[int]]) -> Tensor | None:
        if all(example.durations is None for example in examples):
            return None
        num_specials = 2 if self.has_tasks else 0
        rows = []
        for example, target in zip(examples, targets, strict=True):
            durations, num_tokens = example.durations, len(target) - num_specials
            if durations is None or len(durations) != num_tokens:
                given = "none" if durations is None else str(len(durations))
                raise DataError(
                    f"utterance {example.utt_id!r}: must have a duration for each of its {num_tokens} tokens, got "
                    f"{given}; align it by this tokenizer (speechnar data durations)"
                )
            rows.append(torch.tensor([0.0] * num_specials + list(durations)))
        return _pad(rows, 0.0)[0]

    def _conditions(self, examples: Sequence[Example]) -> tuple[Tensor, Tensor, Tensor]:
        nolang = self.tokenizer.id_of(NOLANG)
        told = [self._lang_and_task(example) for example in examples]
        hidden = [
            (nolang if example.hide_lang else lang, task) for example, (lang, task) in zip(examples, told, strict=True)
        ]
        # A previous text of white space only would be an empty prompt: nothing to attend to.
        prompts = [self.tokenizer.encode(example.prev_text or NA) or self.tokenizer.encode(NA) for example in examples]
        prompt, prompt_lens = self._pad_ids(prompts)
        return torch.tensor(hidden), prompt, prompt_lens

    def _pad_ids(self, rows: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
        return _pad([torch.tensor(row, dtype=torch.int64) for row in rows], self.tokenizer.pad_id)


def _task(lang: str) -> str:
    """Return the piece that asks for a translation into ``lang``."""
    return f"<st_{lang}>"


def _pad(rows: Sequence[Tensor], value: float) -> tuple[Tensor, Tensor]:
    padded = torch.nn.utils.rnn.pad_sequence(list(rows), batch_first=True, padding_value=value)
    return padded, torch.tensor([row.numel() for row in rows])


def _pad_features(examples: Sequence[Example]) -> tuple[Tensor, Tensor] | tuple[None, None]:
    stored = [torch.from_numpy(example.feats).float() for example in examples if example.feats is not None]
    if not stored:
        return None, None
    if len(stored) < len(examples):
        missing = next(example.utt_id for example in examples if example.feats is None)
        raise DataError(f"utterance {missing!r}: must have stored features, as others of its batch have")
    lens = torch.tensor([len(feats) for feats in stored])
    return torch.nn.utils.rnn.pad_sequence(stored, batch_first=True), lens
