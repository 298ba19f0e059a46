"""Train a tokenizer on the texts of Kaldi data directories, or cut one to them (``speechnar data tokenizer``)."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from speechnar.data.kaldi import Utterance, read_kaldi_dir
from speechnar.data.parallel_text import Sentence, is_text_dir, read_sentences
from speechnar.errors import ConfigError, DataError
from speechnar.text.byte_pairs import BytePairTokenizer
from speechnar.text.phonemes import PhonemeTokenizer
from speechnar.text.tokenizer import NA, TOKENS_NAME, SentencePieceTokenizer, Tokenizer, load_tokenizer, task_specials

logger = logging.getLogger(__name__)


def build_tokenizer(
    utterances: Sequence[Utterance | Sentence],
    out: str | Path,
    *,
    vocab_size: int | None = None,
    model_type: Literal["unigram", "bpe", "char", "phonemes"] = "unigram",
    languages: Sequence[str] = (),
    translate_to: Sequence[str] = (),
) -> None:
    """Train on transcripts and, where the tokenizer will translate, on translations; save to the folder ``out``.

    Phonemes, for synthesis of English, need no training; only those that occur are taken.

    Args:
        utterances: of the training set, or sentences without recordings.
        out: a folder that already holds a token list is complete and left alone.
        vocab_size: ids wanted, specials included; not for phonemes, whose number is known.
        model_type: SentencePiece's algorithm, or phonemes.
        languages: ISO 639-3 codes that targets name, in the order of their ids; none for plain text.
        translate_to: languages of the translations.

    Raises:
        ConfigError: the vocabulary size does not fit the corpus, or languages are given with phonemes.
        DataError: there is no text.
    """
    out = Path(out)
    if (out / TOKENS_NAME).exists():
        logger.info("%s is there already", out)
        return
    if (vocab_size is None) != (model_type == "phonemes") or (model_type == "phonemes" and languages):
        raise ConfigError("vocab_size must be given, unless model_type is phonemes, which have no languages either")
    tokenizer: Tokenizer
    if vocab_size is None or model_type == "phonemes":
        tokenizer = PhonemeTokenizer.of(utterance.text for utterance in utterances if utterance.text != NA)
    else:
        tokenizer = _train(utterances, vocab_size, model_type, languages, translate_to)
    _save(tokenizer, out)


def cut_tokenizer(
    utterances: Sequence[Utterance | Sentence],
    out: str | Path,
    source: str | Path,
    *,
    languages: Sequence[str] = (),
    translate_to: Sequence[str] = (),
    min_count: int = 1,
) -> None:
    """Keep of the byte-level pieces of ``source`` those that the texts hold; save to the folder ``out``.

    Args:
        utterances: of the training set, or sentences without recordings.
        out: a folder that already holds a token list is complete and left alone.
        source: folder of a tokenizer, or of a model that has one, as a converted Whisper.
        languages: ISO 639-3 codes that targets name, in the order of their ids; none for plain text.
        translate_to: languages of the translations.
        min_count: rarer pieces are spelled by smaller ones.

    Raises:
        ConfigError: the pieces of ``source`` are not of bytes.
        DataError: ``source`` holds no tokenizer.
    """
    out = Path(out)
    if (out / TOKENS_NAME).exists():
        logger.info("%s is there already", out)
        return
    whole = load_tokenizer(source)
    if not isinstance(whole, BytePairTokenizer):
        raise ConfigError(f"{source}: only a tokenizer of byte-level pieces can be cut, got {type(whole).__name__}")
    specials = task_specials(languages, translate_to) if languages else ()
    _save(whole.cut(_texts(utterances, translate_to), specials, min_count=min_count), out)


def _save(tokenizer: Tokenizer, out: Path) -> None:
    partial = out.with_name(f".{out.name}.partial")
    tokenizer.save(partial)
    if out.exists():
        raise DataError(f"{out}: holds no {TOKENS_NAME}, so it is no tokenizer; remove the folder")
    partial.replace(out)


def _texts(utterances: Sequence[Utterance | Sentence], translate_to: Sequence[str]) -> list[str]:
    texts = [utterance.text for utterance in utterances if utterance.text != NA]
    return texts + [text for u in utterances for lang, text in sorted(u.translations.items()) if lang in translate_to]


def _train(
    utterances: Sequence[Utterance | Sentence],
    vocab_size: int,
    model_type: Literal["unigram", "bpe", "char"],
    languages: Sequence[str],
    translate_to: Sequence[str],
) -> SentencePieceTokenizer:
    specials = task_specials(languages, translate_to) if languages else ()
    return SentencePieceTokenizer.train(_texts(utterances, translate_to), vocab_size, specials, model_type)


def read_texts(folder: Path) -> Sequence[Utterance | Sentence]:
    """Read a directory of recordings, or of texts alone."""
    return read_sentences(folder) if is_text_dir(folder) else read_kaldi_dir(folder)
