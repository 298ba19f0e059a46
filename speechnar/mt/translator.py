"""Text in one language to text in another: whole texts of any length, or texts that still grow.

A text is cut at the ends of its sentences, and a sentence that is too long for the model in the middle; the pieces are
translated in batches. What the model cannot read at all, such as another script, comes back as it was given.

Shapes: B pieces, S source tokens.
"""

import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, overload

import torch
from torch.nn.utils.rnn import pad_sequence

from speechnar.data.pairs import EOS, PairBatch
from speechnar.errors import ConfigError
from speechnar.hub import DEFAULT_MT_MODEL, Precision, find_device, read_card
from speechnar.models.base import LoadedModel
from speechnar.models.prepare import load_prepared
from speechnar.mt.spelling import encode_familiar, without_ellipses
from speechnar.mt.stream import TranslationStream, TranslationUpdate, mute_ids
from speechnar.mt.systems import TranslationOptions, build_system
from speechnar.published import obtain_model
from speechnar.text.languages import to_iso3
from speechnar.text.sentences import cut_sentences, is_speakable

logger = logging.getLogger(__name__)

MAX_PIECE_TOKENS = 127
"""Of what is translated at once, its end not counted: as long as what training keeps unless told otherwise."""
BATCH_TOKENS = 2048
"""Source tokens of a batch with their padding."""


@dataclass(frozen=True)
class TranslatedPiece:
    """A sentence, or a part of a long one."""

    source: str
    text: str
    num_unknown: int
    """Tokens of the source that the model cannot read."""


@dataclass(frozen=True)
class Translation:
    """A translated text; an empty one has no pieces."""

    text: str
    source: str | None
    """ISO 639-3 language; None where the model does not say."""
    target: str | None
    pieces: tuple[TranslatedPiece, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return what JSON can hold."""
        return {**asdict(self), "pieces": [asdict(piece) for piece in self.pieces]}


class Translator:
    """A model that turns text into text of another language.

    >>> translator = Translator.load("path/to/model")  # doctest: +SKIP
    >>> translator.translate("A man is riding a bicycle.", target="de").text  # doctest: +SKIP
    """

    def __init__(
        self,
        loaded: LoadedModel,
        *,
        source: str | None = None,
        target: str | None = None,
        num_masked: int = 0,
        options: TranslationOptions | None = None,
    ) -> None:
        """Wrap a model in memory that translates from ``source`` to ``target``, where that is known.

        ``num_masked`` and ``options`` are what `stream` does if nothing is said.

        Raises:
            ConfigError: the model does not translate texts, cannot honour an option, or a language is unknown.
        """
        self._options = options or TranslationOptions()
        self._num_masked = num_masked
        build_system(loaded, self._options)  # refuses models of other tasks
        self._loaded = loaded
        self._model: Any = loaded.model
        self.source = to_iso3(source) if source else None
        """ISO 639-3 language that is read; None: the model does not say."""
        self.target = to_iso3(target) if target else None
        """ISO 639-3 language that is written."""

    @classmethod
    def load(
        cls,
        name_or_folder: str | os.PathLike[str] = DEFAULT_MT_MODEL,
        *,
        device: str = "auto",
        precision: Precision = "auto",
    ) -> "Translator":
        """Load a shipped model by name, a model folder, or ``owner/name`` from the Hugging Face hub.

        The front matter of its card (README.md) tells the languages (``source`` and ``target``) and how much texts
        that grow may flicker (``masked`` and ``bias``; see `stream` and `TranslationOptions`).

        Args:
            name_or_folder: of kind reta, fretna, fretna_ctc or wait_k.
            device: auto, cpu, or another one.
            precision: as of `speechnar.Transcriber.load`.

        Raises:
            ModelNotFoundError: there is no such model.
            CheckpointError: its files are damaged, or not of this version.
            ConfigError: the device does not exist or not compute in this precision, the model does not translate texts,
                or its card is wrong.
        """
        folder = obtain_model(name_or_folder)
        card = read_card(folder)
        source, target = (str(card[side]) if card.get(side) else None for side in ("source", "target"))
        num_masked, bias = card.get("masked", 0), card.get("bias")
        if type(num_masked) is not int or num_masked < 0 or type(bias) not in (int, float, type(None)):
            raise ConfigError(
                f"{folder}/README.md: masked must be a number of words, and bias one, got {num_masked!r} and {bias!r}"
            )
        loaded = load_prepared(folder, device=find_device(device), precision=precision)
        return cls(loaded, source=source, target=target, num_masked=num_masked, options=TranslationOptions(bias=bias))

    @property
    def name(self) -> str:
        """Name of the model."""
        return self._loaded.name

    @overload
    def translate(self, text: str, *, source: str | None = None, target: str | None = None) -> Translation: ...

    @overload
    def translate(
        self, text: list[str] | tuple[str, ...], *, source: str | None = None, target: str | None = None
    ) -> list[Translation]: ...

    def translate(
        self, text: str | list[str] | tuple[str, ...], *, source: str | None = None, target: str | None = None
    ) -> Translation | list[Translation]:
        """Translate a text, or each of several.

        White space, line breaks included, counts as one space, but an empty line ends a sentence. Control characters
        are left out, and so are dots in the middle of a sentence ("..."). Sentences all in capitals are read in small
        letters where the model knows these better. An empty text gives an empty one. Sentences without a letter that
        the model knows stay as they are, with a warning.

        Args:
            text: of any length.
            source: language of the text, a code or an English name; None: the model's.
            target: language of the result.

        Raises:
            ConfigError: the model translates between other languages, or its card does not say which; or ``text`` is
                neither a string nor a list of them.
        """
        self.check_languages(source, target)
        texts = list(text) if isinstance(text, list | tuple) else [text]
        for item in texts:
            if not isinstance(item, str):
                raise ConfigError(
                    f"text must be a str, or a list of them, got {type(item).__name__}; decode bytes first"
                )
        pieces = [self._cut(item) for item in texts]
        done = iter(self._translate_pieces([piece for row in pieces for piece in row]))
        results = [self._join([next(done) for _ in row]) for row in pieces]
        return results[0] if isinstance(text, str) else results

    def stream(
        self,
        *,
        source: str | None = None,
        target: str | None = None,
        num_masked: int | None = None,
        options: TranslationOptions | None = None,
    ) -> TranslationStream:
        """Return what translates one growing source after another, by ``start``, ``push`` and ``finish``.

        Args:
            source: as in `translate`.
            target: as in `translate`.
            num_masked: words at the end that are not shown until the source is finished; None: as the card says.
            options: how the model is to translate; likewise.

        Raises:
            ConfigError: the model translates between other languages, or cannot honour an option.
        """
        self.check_languages(source, target)
        system = build_system(self._loaded, self._options if options is None else options)
        num_masked = self._num_masked if num_masked is None else num_masked
        return TranslationStream(system, self._loaded.tokenizer, num_masked=num_masked)

    def live(
        self,
        lines: Iterable[str],
        *,
        source: str | None = None,
        target: str | None = None,
        num_masked: int | None = None,
        options: TranslationOptions | None = None,
    ) -> Iterator[TranslationUpdate]:
        """Yield what to show after each of ``lines``, the words by which a source grows, as soon as it is known.

        An empty line finishes a source, and so does the end of all; the update is then final, and another source
        begins. One that would become too long for the model is finished before, and a line that is too long by itself
        comes in parts, each with an update of its own. A last line without its end counts.

        Raises:
            ConfigError: as `stream`; at once, before anything is read.
        """
        stream = self.stream(source=source, target=target, num_masked=num_masked, options=options)
        return self._follow(stream, lines)

    def _follow(self, stream: TranslationStream, lines: Iterable[str]) -> Iterator[TranslationUpdate]:
        growing = ""
        for line in lines:
            words = " ".join(cut_sentences(line))
            if not words:
                if growing:
                    yield stream.finish()
                    stream.start()
                growing = ""
                continue
            for part in self._shorten(words):
                if growing and not self._fits(f"{growing} {part}"):
                    yield stream.finish()
                    stream.start()
                    growing = ""
                growing = f"{growing} {part}".strip()
                yield stream.push(part)
        if growing:
            yield stream.finish()

    def check_languages(self, source: str | None, target: str | None) -> None:
        """Refuse a language that is not the model's; None is not looked at.

        Raises:
            ConfigError: it translates between other languages, or its card does not say which, or there is none such.
        """
        for side, given, known in (("source", source, self.source), ("target", target, self.target)):
            if given is None:
                continue
            wanted = to_iso3(given)
            if known is None:
                raise ConfigError(
                    f"model {self.name} does not say what languages it translates, so {side} cannot be {given!r}; "
                    "leave source and target out, or name them in the front matter of its README.md "
                    "(source: eng, target: deu)"
                )
            if wanted != known:
                raise ConfigError(
                    f"model {self.name} translates from {self.source or '?'} into {self.target or '?'}, "
                    f"got {side} {given!r}; load a model of these languages"
                )

    def _cut(self, text: str) -> list[str]:
        return [piece for sentence in cut_sentences(without_ellipses(text)) for piece in self._shorten(sentence)]

    def _fits(self, text: str) -> bool:
        return len(encode_familiar(text, self._loaded.tokenizer)) <= MAX_PIECE_TOKENS

    def _shorten(self, text: str) -> Iterator[str]:
        """Cut in halves, at the space nearest to the middle if there is one, until all parts fit."""
        if len(text) < 2 or self._fits(text):
            yield text
            return
        middle = len(text) // 2
        spaces = [place for place in (text.rfind(" ", 0, middle), text.find(" ", middle)) if place > 0]
        place = min(spaces, key=lambda place: abs(place - middle), default=middle)
        for half in (text[:place].strip(), text[place:].strip()):
            yield from self._shorten(half)

    def _translate_pieces(self, pieces: Sequence[str]) -> list[TranslatedPiece]:
        """Translate all, those of similar length together."""
        tokenizer = self._loaded.tokenizer
        encoded = [encode_familiar(piece, tokenizer) for piece in pieces]
        unknown = [tokens.count(tokenizer.unk_id) for tokens in encoded]
        mute = mute_ids(tokenizer)
        is_mute = [
            mute.issuperset(tokens) or not is_speakable(piece) for piece, tokens in zip(pieces, encoded, strict=True)
        ]
        readable = [i for i, is_unread in enumerate(is_mute) if not is_unread]
        if len(readable) < len(pieces):
            first = pieces[is_mute.index(True)]
            logger.warning(
                "%d of %d sentences have no letter that model %s knows and stay as they are, the first: %.60r",
                *(len(pieces) - len(readable), len(pieces), self.name, first),
            )
        texts = list(pieces)
        eos_id = tokenizer.id_of(EOS)
        batch: list[int] = []
        for i in sorted(readable, key=lambda i: len(encoded[i])):
            if batch and (len(batch) + 1) * (len(encoded[i]) + 1) > BATCH_TOKENS:
                self._translate_batch([[*encoded[j], eos_id] for j in batch], batch, texts)
                batch = []
            batch.append(i)
        if batch:
            self._translate_batch([[*encoded[j], eos_id] for j in batch], batch, texts)
        return [TranslatedPiece(*row) for row in zip(pieces, texts, unknown, strict=True)]

    @torch.no_grad()
    def _translate_batch(self, rows: Sequence[list[int]], places: Sequence[int], texts: list[str]) -> None:
        """Put the translation of each of ``rows`` at its place."""
        device = next(self._loaded.model.parameters()).device
        nothing = torch.zeros(len(rows), dtype=torch.int64)
        batch = PairBatch(
            src_tokens=pad_sequence(
                [torch.tensor(row) for row in rows], batch_first=True, padding_value=self._loaded.tokenizer.pad_id
            ),
            src_lens=torch.tensor([len(row) for row in rows]),
            tgt_tokens=nothing[:, None][:, :0],
            tgt_lens=nothing,
            previous_src_lens=nothing,
            previous_tgt_lens=nothing,
            utt_ids=("",) * len(rows),
            refs=("",) * len(rows),
        ).to(device)
        for place, tokens in zip(places, self._model.translate(batch), strict=True):
            texts[place] = " ".join(self._loaded.tokenizer.decode(tokens).split())

    def _join(self, pieces: Sequence[TranslatedPiece]) -> Translation:
        text = " ".join(piece.text for piece in pieces if piece.text)
        return Translation(text, self.source, self.target, tuple(pieces))
