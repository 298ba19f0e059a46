"""Sentences with their translations, and directories of them.

A directory of texts is a Kaldi directory without recordings: ``text``, ``utt2lang`` (ISO 639-3) and ``text.<lang>``.
Any of its languages may be the source and any other the target.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from speechnar.data.kaldi import read_text_tables, write_table
from speechnar.errors import DataError


@dataclass(frozen=True)
class Sentence:
    """A text and its translations."""

    utt_id: str
    text: str
    lang: str
    translations: Mapping[str, str] = field(default_factory=dict)
    """By ISO 639-3 language."""

    def in_language(self, lang: str) -> str | None:
        """Return the text in that language, if there is one."""
        return self.text if lang == self.lang else self.translations.get(lang)


def is_text_dir(folder: str | Path) -> bool:
    """Tell whether a directory holds texts without recordings."""
    return (Path(folder) / "text").exists() and not (Path(folder) / "wav.scp").exists()


def read_sentences(folder: str | Path) -> list[Sentence]:
    """Return the sentences of a directory of texts (or of any Kaldi directory with ``utt2lang``), sorted by id.

    Raises:
        DataError: with every fault of the folder at once, each as ``file:line: fault``.
    """
    texts, languages, tables = read_text_tables(folder)
    by_id: dict[str, dict[str, str]] = {utt_id: {} for utt_id in texts}
    for lang, table in tables.items():
        for utt_id, text in table.items():
            by_id[utt_id][lang] = text
    return [Sentence(utt_id, text, languages[utt_id], by_id[utt_id]) for utt_id, text in texts.items()]


def write_sentences(folder: str | Path, sentences: Sequence[Sentence]) -> None:
    """Write a directory that `read_sentences` reads back; ``text`` comes last, so that a folder with it is complete.

    Raises:
        DataError: an id is repeated or is not one word, a text is blank or not one line, or there is none.
    """
    folder = Path(folder)
    if not sentences or len({sentence.utt_id for sentence in sentences}) < len(sentences):
        raise DataError(f"{folder}: needs at least one sentence, and ids that differ; got {len(sentences)} sentences")
    files: dict[str, dict[str, str]] = {"utt2lang": {}, "text": {}}
    for sentence in sentences:
        values = {"text": sentence.text, "utt2lang": sentence.lang}
        values |= {f"text.{lang}": text for lang, text in sentence.translations.items()}
        if sentence.utt_id.split() != [sentence.utt_id] or any(_is_unwritable(value) for value in values.values()):
            raise DataError(
                f"{folder}: the id must be one word and texts one line each and not blank, got sentence "
                f"{sentence.utt_id!r} {values}"
            )
        for name, value in values.items():
            files.setdefault(name, {})[sentence.utt_id] = value
    folder.mkdir(parents=True, exist_ok=True)
    stale = {path.name for path in folder.glob("text.*")} - files.keys()
    for name in ("text", *sorted(stale)):
        (folder / name).unlink(missing_ok=True)
    for name in sorted(files, key=lambda name: name == "text"):
        write_table(folder / name, files[name])


def _is_unwritable(text: str) -> bool:
    return not text.strip() or "\n" in text or "\r" in text
