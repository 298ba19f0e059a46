"""Clips of speech to text tokens with any recogniser: language and task, batches, search, language identification.

Shapes: B clips, S samples, T positions (the model's prefix, then frames), V vocabulary, L languages, U tokens.
Source: OWSM-CTC (Peng et al., ACL 2024, section 3) for language and task as the first tokens of the output.
"""

import logging
import math
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from speechnar.asr.options import AUTO, DecodeOptions
from speechnar.asr.search import CtcSearch
from speechnar.asr.speech_models import FindsBest, HotwordModel, ManyDecoders, PaddedModel, SpeechModel, TaggingModel
from speechnar.audio.blocks import Samples, batches
from speechnar.decode.align import CtcPath
from speechnar.decode.ctc import collapse
from speechnar.decode.longform import LongformConfig, transcribe_stream
from speechnar.errors import ConfigError, DataError, SpeechnarError
from speechnar.models.base import LoadedModel
from speechnar.nn.lengths import valid_mask
from speechnar.text.languages import UNDETERMINED, to_iso3
from speechnar.text.transcript import AudioTags
from speechnar.text.words import WordLists

logger = logging.getLogger(__name__)

CTC = "ctc"
_NO_LETTER = re.compile(r"[^\w\s']|_")
MIN_CLIP_FRAMES = 4
"""Shorter clips are padded to this many output frames: convolutions need some input."""
BATCH_SECONDS = {"cpu": 30.0}
OTHER_BATCH_SECONDS = 120.0


@dataclass(frozen=True)
class Decoded:
    """What a model made of one clip."""

    path: CtcPath
    """Text tokens only; frame 0 is the first of the clip."""
    language_mass: npt.NDArray[np.float64]
    """(L,) how often each language token is expected among the frames; it is emitted once."""
    tags: tuple[AudioTags, ...] = ()
    """Of a `TaggingModel`; times count from the beginning of the clip."""

    def if_speech(self, is_speech: bool) -> "Decoded":
        """Return it, without a say in what the language is unless the clip is speech."""
        return self if is_speech else replace(self, language_mass=np.zeros_like(self.language_mass))

    def tags_from(self, start_s: float) -> list[AudioTags]:
        """Return the tags of a clip that begins at ``start_s`` of a recording."""
        return [replace(tag, start=start_s + tag.start, end=start_s + tag.end) for tag in self.tags]


class ClipDecoder:
    """One model with one task, one language (or ``auto``) and one set of options.

    Args:
        loaded: a recogniser.
        task: ``asr``, or ``st_xxx`` for translation into language xxx.
        language: of the speech, in any form `speechnar.text.languages.to_iso3` takes, or ``auto``.
        default_language: what a model without language tokens speaks, if that is known.
        options: the rest.

    Raises:
        ConfigError: the model cannot honour one of them.
        DataError: the language model is malformed.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        *,
        task: str = "asr",
        language: str = AUTO,
        default_language: str | None = None,
        options: DecodeOptions | None = None,
    ) -> None:
        if not isinstance(loaded.model, SpeechModel):
            raise ConfigError(f"{loaded.name}: {type(loaded.model).__name__} is no speech recogniser")
        self.name, self.kind = loaded.name, loaded.kind
        self.model = cast(SpeechModel, loaded.model)
        self.device = next(loaded.model.parameters(), torch.empty(0)).device  # a graph has none
        self.tokenizer = loaded.tokenizer
        self.sample_rate = self.model.sample_rate
        self._tagger = loaded.model if isinstance(loaded.model, TaggingModel) else None
        self.language_ids: dict[str, int] = {}
        if self._tagger is not None:
            self.language_ids = self._tagger.language_ids
        elif self.model.num_prefix:
            self.language_ids = self.tokenizer.language_ids()
        self.task = task
        self.language = AUTO if language == AUTO else to_iso3(language)
        self.default_language = default_language
        self.options = options or DecodeOptions()
        self._clip_s = self.model.clip_s if isinstance(self.model, PaddedModel) else None
        self.decoder = self._find_decoder()
        self._prefix = self._find_prefix()
        self._prompt = self._encode_prompt()
        self.search = CtcSearch(
            self.options,
            self.tokenizer,
            blank_id=self.model.blank_id,
            words=self._find_words(loaded.words),
            hotwords=self._spell_hotwords() if self.decoder == CTC else (),
        )
        self._options_of_decoder = self._decoder_options()

    @property
    def window_samples(self) -> int:
        """The longest clip."""
        return round(self.options.window_s * self.sample_rate)

    @property
    def pads(self) -> bool:
        """Whether clips are padded to one length, as asked for or as the model was trained."""
        return self.options.pad if self.options.pad is not None else self._clip_s is not None

    @property
    def shortest_samples(self) -> int:
        """What shorter clips are padded to."""
        if self.pads:
            return round((self._clip_s or self.options.window_s) * self.sample_rate)
        return math.ceil(MIN_CLIP_FRAMES * self.model.frame_shift_s * self.sample_rate)

    @property
    def batch_seconds(self) -> float:
        """The most that is decoded together."""
        return self.options.batch_seconds or BATCH_SECONDS.get(self.device.type, OTHER_BATCH_SECONDS)

    @property
    def batch_samples(self) -> int:
        """The same in samples."""
        return round(self.batch_seconds * self.sample_rate)

    @property
    def tells_language(self) -> bool:
        """Whether the language is to be found out, and the model can."""
        return self.language == AUTO and bool(self.language_ids)

    @property
    def tells_tags(self) -> bool:
        """Whether the model names emotions and sounds."""
        return self._tagger is not None

    def target_head(self, language: str) -> list[int]:
        """Return the tokens with which a target in ``language`` begins."""
        if not (self.model.num_prefix and self.language_ids):
            return []
        return [self.language_ids[language], self.tokenizer.id_of(f"<{self.task}>")]

    def decode(self, clips: Sequence[Samples]) -> list[Decoded]:
        """Decode clips of at most one window each, in batches of like length."""
        decoded = dict(chain.from_iterable(self.decode_in_batches(clips)))
        return [decoded[i] for i in range(len(clips))]

    def decode_in_batches(self, clips: Sequence[Samples]) -> Iterator[list[tuple[int, Decoded]]]:
        """Decode clips likewise; yield a batch at a time places of clips and their results.

        The batch that holds the earliest clip comes first.
        """
        found = batches([self._padded_size(clip) for clip in clips], self.batch_samples)
        for batch in sorted(found, key=min):
            yield list(zip(batch, self._decode_batch([clips[i] for i in batch]), strict=True))

    def decode_windows(self, blocks: Iterable[Samples]) -> tuple[Decoded, int]:
        """Decode a recording of any length in overlapping windows; return also its number of samples.

        Raises:
            ConfigError: the options ask for a search, which has no windows.
        """
        if self.options.needs_search or self.decoder != CTC:
            raise ConfigError(
                f"other decoders than {CTC}, beam search, language model and hotwords need clips of at most "
                f"{self.options.window_s:g} s; leave VAD on for longer recordings"
            )
        window_s = self.options.window_s
        config = LongformConfig(
            buffer_s=window_s,
            context_s=min(4.0, window_s / 6),
            batch_size=max(1, int(self.batch_seconds / window_s)),
            pad_to_buffer=self.pads,
        )
        mass = np.zeros(len(self.language_ids))
        hop_s = window_s - 2 * config.context_s
        tags: list[AudioTags] = []

        def encode(wav: Tensor, wav_lens: Tensor) -> tuple[Tensor, Tensor]:
            out = self._encode_padded(wav, wav_lens)
            mass.__iadd__(self.language_mass(out).sum(axis=0))
            if self._tagger is not None:
                for labels in self._tagger.tags(out):
                    begin_s = len(tags) * hop_s
                    tags.append(AudioTags(begin_s, begin_s + hop_s, *labels))
            return out.log_probs, out.lens

        result = transcribe_stream(
            blocks,
            encode,
            config=config,
            blank_id=self.model.blank_id,
            sample_rate=self.sample_rate,
            frame_shift_s=self.model.frame_shift_s,
            num_prefix=self.model.num_prefix,
        )
        path = self.text_path(result.path, num_prefix=0)
        return Decoded(path, mass, tuple(tags)), result.num_samples

    def decide_language(self, mass: npt.NDArray[np.float64]) -> tuple[str, float | None]:
        """Return the language of the speech and, where it was not given, its share of all languages' mass.

        Without any mass, as where nobody speaks, it is ``und``, with probability 0.
        """
        if self.language != AUTO:
            return self.language, None
        if not self.language_ids:
            return self.default_language or UNDETERMINED, None
        if not mass.sum() > 0:
            return UNDETERMINED, 0.0
        best = int(mass.argmax())
        return list(self.language_ids)[best], float(mass[best] / mass.sum())

    def text_language(self, language: str) -> str:
        """Return the language of the text where ``language`` is that of the speech."""
        return language if self.task == "asr" else self.task.removeprefix("st_")

    def _decode_batch(self, clips: Sequence[Samples]) -> list[Decoded]:
        """Decode clips together; on a full device, half of them at a time."""
        try:
            return self._decode_together(clips)
        except torch.OutOfMemoryError:
            if len(clips) == 1:
                seconds = len(clips[0]) / self.sample_rate
                raise SpeechnarError(f"out of memory on a clip of {seconds:.1f} s; lower window_s") from None
            logger.info("out of memory on %d clips; halving the batch", len(clips))
            half = len(clips) // 2
            return self._decode_batch(clips[:half]) + self._decode_batch(clips[half:])

    def _decode_together(self, clips: Sequence[Samples]) -> list[Decoded]:
        out = self.encode(clips)
        if self.decoder != CTC:
            paths = [self.text_path(path, num_prefix=0) for path in self._decode_with(out)]
            masses = self.language_mass(out)
        elif not (self.search.is_greedy and isinstance(out, FindsBest)):
            masses = self.language_mass(out)
            languages = [self.decide_language(mass)[0] for mass in masses]
            paths = [self.text_path(path) for path in self.search(out.log_probs, out.lens, languages)]
        else:
            best = out.posteriors.best(self._language_columns())
            found = collapse(best.classes, best.scores, out.lens, self.model.blank_id)
            paths = [self.text_path(path) for path in found]
            masses = _mass(best.picked, out.lens)
        return [
            Decoded(path, mass, tags) for path, mass, tags in zip(paths, masses, self._tags(clips, out), strict=True)
        ]

    def _tags(self, clips: Sequence[Samples], out: Any) -> list[tuple[AudioTags, ...]]:
        if self._tagger is None:
            return [()] * len(clips)
        ends = [len(clip) / self.sample_rate for clip in clips]
        return [(AudioTags(0.0, end, *labels),) for end, labels in zip(ends, self._tagger.tags(out), strict=True)]

    def encode(self, clips: Sequence[Samples]) -> Any:
        """Return the model's output for clips as one batch, without gradients."""
        wav_lens = torch.tensor([self._padded_size(clip) for clip in clips])
        wav = torch.zeros(len(clips), int(wav_lens.max()))
        for row, clip in zip(wav, clips, strict=True):
            row[: len(clip)] = torch.from_numpy(clip)
        return self._encode_padded(wav, wav_lens)

    @torch.inference_mode()
    def _encode_padded(self, wav: Tensor, wav_lens: Tensor) -> Any:
        wav, wav_lens = wav.to(self.device), wav_lens.to(self.device)
        if self._prefix is None:
            return self.model.encode(wav, wav_lens)
        prefix = self._prefix.to(self.device).expand(len(wav), -1)
        if self._prompt is None:
            return self.model.encode(wav, wav_lens, prefix=prefix)
        prompt = self._prompt.to(self.device)
        prompt_lens = torch.tensor([prompt.size(1)], device=self.device)
        return self.model.encode(wav, wav_lens, prefix=prefix, prompt=prompt, prompt_lens=prompt_lens)

    def _padded_size(self, clip: Samples) -> int:
        return max(len(clip), self.shortest_samples)

    @torch.inference_mode()
    def _decode_with(self, out: Any) -> list[CtcPath]:
        """Decode with the model's decoder of that name."""
        return cast(ManyDecoders, self.model).decode(out, self.decoder, **self._options_of_decoder)

    def text_path(self, path: CtcPath, num_prefix: int | None = None) -> CtcPath:
        """Drop language, task and other specials (not ``<unk>``), and count frames from the first one of audio."""
        shift = self.model.num_prefix if num_prefix is None else num_prefix
        is_special, unk_id = self.tokenizer.is_special, self.tokenizer.unk_id
        kept = [i for i, token in enumerate(path.tokens) if token == unk_id or not is_special(token)]
        return CtcPath(
            tokens=[path.tokens[i] for i in kept],
            starts=[max(path.starts[i] - shift, 0) for i in kept],
            ends=[max(path.ends[i] - shift, 0) for i in kept],
            scores=[path.scores[i] for i in kept],
            total=path.total,
        )

    def language_mass(self, out: Any) -> npt.NDArray[np.float64]:
        """Return (B, L): the sum over valid positions of the probability of each language token.

        Of a `TaggingModel`, which has one position for them, it is that probability.
        """
        if not self.language_ids:
            return np.zeros((len(out.lens), 0))
        if self._tagger is not None:
            return np.asarray(self._tagger.language_probs(out).double().cpu().numpy())
        return _mass(out.log_probs[..., self._language_columns()], out.lens)

    def _language_columns(self) -> Tensor:
        return torch.tensor(list(self.language_ids.values()), dtype=torch.long, device=self.device)

    def _find_decoder(self) -> str:
        """Return the decoder asked for, which must be one that honours the other options."""
        options, names = self.options, self.model.decoder_names
        decoder = options.decoder or names[0]
        if decoder not in names:
            raise ConfigError(f"model {self.name} decodes with {', '.join(names)}; got decoder {decoder!r}")
        if decoder != CTC and self.task != "asr":
            raise ConfigError(f"decoder {decoder} writes transcripts; leave it at {CTC} to translate")
        honoured = {
            CTC: {"beam_size", "lm", "word_weight", "hotwords"},
            "cassnat": {"num_alignments"},
            "transformer_ar": {"beam_size"},
        }
        if isinstance(self.model, HotwordModel) and self.model.knows_hotwords:
            honoured["paraformer"] = {"hotwords"}
        for name in ("beam_size", "lm", "word_weight", "hotwords", "num_alignments"):
            if getattr(options, name) and name not in honoured.get(decoder, ()):
                able = [other for other in names if name in honoured.get(other, ())]
                raise ConfigError(
                    f"{name} is not for decoder {decoder} of model {self.name}; "
                    + (f"use {' or '.join(able)}" if able else "leave it out")
                )
        return decoder

    def _find_prefix(self) -> Tensor | None:
        """Return the ids (1, 2) of language and task, or what a `TaggingModel` has, or None for a model without."""
        if not self.model.num_prefix and self._tagger is None:
            if self.task != "asr":
                raise ConfigError(f"model {self.name} does not translate; use one with task tokens")
            if self.language not in (AUTO, self.default_language):
                known = self.default_language or "its own"
                raise ConfigError(f"model {self.name} knows one language ({known}); leave language at {AUTO}")
            return None
        if self.language != AUTO and self.language not in self.language_ids:
            raise ConfigError(
                f"language must be one of {', '.join(self.language_ids)} for model {self.name}, got {self.language}"
            )
        if self.task != "asr" and f"<{self.task}>" not in self.tokenizer.pieces:
            targets = ", ".join(translation_targets(self.tokenizer.pieces)) or "none"
            raise ConfigError(
                f"model {self.name} does not translate to {self.task.removeprefix('st_')}; it translates to: {targets}"
            )
        if self._tagger is not None:
            return self._tagger.prefix_of(None if self.language == AUTO else self.language, plain=self.options.plain)
        language = "nolang" if self.language == AUTO else self.language
        return torch.tensor([[self.tokenizer.id_of(f"<{piece}>") for piece in (language, self.task)]])

    def _encode_prompt(self) -> Tensor | None:
        if self.options.prompt is None:
            return None
        if not self.model.num_prefix:
            raise ConfigError(f"model {self.name} takes no prompt; leave it out")
        return torch.tensor([self.tokenizer.encode(self.options.prompt) or [self.tokenizer.id_of("<na>")]])

    def _find_words(self, lists: WordLists | None) -> WordLists | None:
        """Return the lists of words that CTC is to use, if any."""
        options = self.options
        has_lists = lists is not None and bool(lists.languages)
        if options.word_weight and not has_lists:
            raise ConfigError(f"model {self.name} has no lists of words; leave out word_weight")
        is_used = self.decoder == CTC and self.task == "asr" and options.lm is None and options.word_weight != 0
        return lists if has_lists and is_used else None

    def _decoder_options(self) -> dict[str, Any]:
        """Return what a decoder other than CTC is to do otherwise than by default; it serves every clip."""
        options = self.options
        given: dict[str, Any] = {"num_alignments": options.num_alignments, "beam_size": options.beam_size}
        if options.hotwords and self.decoder != CTC:
            weight = options.hotword_weight
            if weight is not None and not 0 <= weight <= 1:
                raise ConfigError(
                    f"hotword_weight must lie in [0, 1] for decoder {self.decoder}, where it is the share of the bias "
                    f"decoder; got {weight}"
                )
            phrases = self._spell_hotwords()
            if phrases:
                given |= {"hotwords": cast(HotwordModel, self.model).hotword_vectors(phrases), "hotword_weight": weight}
        return {name: value for name, value in given.items() if value is not None}

    def _spell_hotwords(self) -> list[list[int]]:
        """Return the tokens of each hotword in the first form that the model can spell; those without one are named."""
        spelled = []
        for phrase in self.options.hotwords:
            normalized = unicodedata.normalize("NFKC", phrase)
            forms = [phrase, normalized, normalized.lower(), normalized.upper()]
            forms += [_NO_LETTER.sub("", form) for form in forms]
            form = next((form for form in forms if form.strip() and not self._unknown_letters(form)), None)
            if form is None and phrase.strip():
                unknown = ", ".join(map(repr, self._unknown_letters(phrase)))
                logger.warning("hotword %r is left out: model %s cannot spell %s", phrase, self.name, unknown)
            else:
                spelled.append(self.spell(form or phrase, "hotword"))
        return spelled

    def spell(self, text: str, what: str) -> list[int]:
        """Return the tokens of ``text``.

        Raises:
            ConfigError: naming ``what``, when there are none or a letter is unknown.
        """
        unknown = self._unknown_letters(text)
        if unknown:
            shown = ", ".join(map(repr, unknown[:20]))
            forms = {"small": text.lower(), "capital": text.upper()}
            known = [f"; it knows {name} letters" for name, form in forms.items() if not self._unknown_letters(form)]
            raise ConfigError(f"{what} has letters that model {self.name} cannot spell: {shown}{''.join(known)}")
        tokens = self.tokenizer.encode(text)
        if not tokens:
            raise ConfigError(f"{what} must not be empty, got {text!r}")
        return tokens

    def _unknown_letters(self, text: str) -> list[str]:
        """Return what the model cannot spell: single letters, or the words in which they stand.

        Raises:
            ConfigError: it is no text.
        """
        encode, unk_id = self.tokenizer.encode, self.tokenizer.unk_id
        try:
            if unk_id not in encode(text):
                return []
        except DataError as error:
            raise ConfigError(str(error)) from None
        letters = [letter for letter in dict.fromkeys(text) if unk_id in encode(letter)]
        return letters or [word for word in text.split() if unk_id in encode(word)] or [text]


def _mass(log_probs: Tensor, lens: Tensor) -> npt.NDArray[np.float64]:
    """Return the sums of probabilities over valid positions (B, L) for ``log_probs`` (B, T, L)."""
    probs = log_probs.exp().where(valid_mask(lens, log_probs.size(1))[..., None], 0.0)
    mass: npt.NDArray[np.float64] = probs.sum(dim=1).double().cpu().numpy()
    return mass


def translation_targets(pieces: Iterable[str]) -> list[str]:
    """Return the languages that a vocabulary has ``<st_xxx>`` pieces for."""
    return [piece[4:-1] for piece in pieces if piece.startswith("<st_") and piece.endswith(">")]
