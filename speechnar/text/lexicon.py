"""Pronunciations of American English words: a dictionary, and rules for the endings and compounds it does not list.

A pronunciation is a string of phonemes, one letter each, where a stress mark (``ˈ`` primary, ``ˌ`` secondary) stands
before its vowel. ``A I O W Y`` are the diphthongs of *face, price, goat, mouth, choice*; ``ʤ ʧ`` the affricates; ``ɾ``
the flap of *butter*; ``ᵊ`` and ``ᵻ`` the reduced vowels of *button* and *roses*.

Source: the dictionaries ``us_gold.json`` and ``us_silver.json`` of the package misaki (hexgrad, Apache-2.0), which are
read as data; its code and what that depends on are not imported. Gold wins over silver. The rules for -s, -ed and -ing
are those of English phonology (Carr, *English Phonetics and Phonology*, chapter on morphophonology).
"""

import functools
import importlib.resources
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

CONSONANTS = "bdfhjklmnpstvwzðŋɡɹɾʃʒʔʤʧθ"
VOWELS = "AIOWYiuæɑɔəɛɜɪʌʊᵊᵻ"
PRIMARY, SECONDARY = "ˈ", "ˌ"

_SIBILANTS = frozenset("szʃʒʧʤ")
_VOICELESS = frozenset("ptkfθsʃʧ")
_FLAPPED_AFTER = frozenset("AIOWYiuæɑəɛɪɹʊʌ")
"""Sounds after which a t before an unstressed vowel is the flap of American English."""
_CLITICS: Mapping[str, str] = {"": "", "s": "z", "d": "d", "ll": "əl", "ve": "əv", "re": "əɹ", "m": "m"}
_ADDED: Mapping[str, str] = {
    **{"et": "ɛt", "cetera": "sˈɛɾəɹə", "Messers": "mˈɛsəɹz", "gigahertz": "ɡˈɪɡəhˌɜɹts", "de": "də", "le": "lə"},
    **{"kilojoule": "kˈɪləʤˌul", "kilopascal": "kˈɪləpæskˌæl", "hectopascal": "hˈɛktəpæskˌæl", "kibibyte": "kˈɪbibˌIt"},
    **{"mebibyte": "mˈɛbibˌIt", "gibibyte": "ɡˈɪbibˌIt", "hashtag": "hˈæʃtˌæɡ", "wifi": "wˈIfˌI", "json": "ʤˈAsən"},
    **{"yaml": "jˈæməl", "github": "ɡˈɪthˌʌb", "pytorch": "pˈItˌɔɹʧ", "nginx": "ˈɛnʤənˈɛks", "iphone": "ˈIfˌOn"},
    **{"ipad": "ˈIpˌæd", "macos": "mˌækˌOˈɛs", "debian": "dˈɛbiən", "kubernetes": "kˌubəɹnˈɛɾiz", "youtube": "jˈutˌub"},
    **{"tiktok": "tˈɪktˌɑk", "whatsapp": "wˈʌtsˌæp", "postgres": "pˈOstɡɹˌɛs", "numpy": "nˈʌmpˌI"},
}
"""What the dictionary lacks and texts often have."""
_VOWEL_LETTERS = frozenset("aeiouy")


@dataclass(frozen=True)
class Lexicon:
    """Words to pronunciations."""

    entries: Mapping[str, str]
    """The pronunciation of each word inside a phrase; for homographs, that of the commonest part of speech."""
    final: Mapping[str, str]
    """The stronger pronunciation that some function words have at the end of a phrase."""

    def __contains__(self, word: str) -> bool:
        return self._cased(word) is not None

    def lookup(self, word: str, *, starts_sentence: bool = False, ends_phrase: bool = False) -> str | None:
        """Return the pronunciation of one word, or None if neither the dictionary nor a rule has it.

        Args:
            word: letters, apostrophes and hyphens. Case tells *Polish* from *polish*.
            starts_sentence: a capital says nothing here, so the word in small letters goes first.
            ends_phrase: prefer the form before a pause.
        """
        return self._listed(word, starts_sentence, ends_phrase) or self._derived(word, None)

    def pronounce(
        self, word: str, guess: Callable[[str], str], *, starts_sentence: bool = False, ends_phrase: bool = False
    ) -> str:
        """Return the pronunciation of any word: as :meth:`lookup` does, else with ``guess`` for the parts not listed.

        Args:
            guess: takes letters only, none of them an apostrophe or a hyphen.
        """
        listed = self._listed(word, starts_sentence, ends_phrase) or self._derived(word, None)
        return listed or self._derived(word, guess) or guess(re.sub("[^A-Za-z]", "", word))

    def letters(self, word: str) -> str:
        """Return the names of the letters A to Z in ``word``: secondary stress on all but the last."""
        names = [self.entries[letter] for letter in word.upper() if letter in self.entries]
        return "".join([*(name.replace(PRIMARY, SECONDARY) for name in names[:-1]), *names[-1:]])

    def _cased(self, word: str, *, small_first: bool = False) -> str | None:
        """Return how the dictionary writes the word."""
        small, capital = word.lower(), word.capitalize()
        for spelling in (small, word, capital) if small_first else (word, small, capital):
            if spelling in self.entries:
                return spelling
        return None

    def _listed(self, word: str, starts_sentence: bool = False, ends_phrase: bool = False) -> str | None:
        spelling = self._cased(word, small_first=starts_sentence)
        if spelling is None:
            return None
        return self.final.get(spelling, self.entries[spelling]) if ends_phrase else self.entries[spelling]

    def _derived(self, word: str, guess: Callable[[str], str] | None) -> str | None:
        """Return the pronunciation of a compound, a possessive or an inflected word from those of its parts."""
        stem, _, ending = word.rpartition("'")
        if stem and ending.lower() in _CLITICS:
            base = self._part(stem, guess)
            if base is None or not ending:
                return base
            return add_s(base) if ending.lower() == "s" else base + _CLITICS[ending.lower()]
        if "-" in word:
            return self._compound(word.split("-"), guess)
        for stems, add in ((_stems_of_s(word), add_s), (_stems_of_ed(word), add_ed), (_stems_of_ing(word), add_ing)):
            for candidate in stems:
                base = self._listed(candidate) if len(candidate) > 1 else None
                if base is not None:
                    return add(base)
        return None

    def _compound(self, parts: Sequence[str], guess: Callable[[str], str] | None) -> str | None:
        if all(len(part) == 1 for part in parts):
            return self.letters("".join(parts))
        said = [self._part(part, guess) for part in parts if part]
        return None if None in said else "".join(part for part in said if part)

    def _part(self, word: str, guess: Callable[[str], str] | None) -> str | None:
        if len(word) == 1:
            return self.letters(word)
        return self.lookup(word) if guess is None else self.pronounce(word, guess)


@functools.cache
def english() -> Lexicon:
    """Return the dictionary of American English; read once (about 0.2 s)."""
    folder = importlib.resources.files("misaki.data")
    entries = dict(_ADDED)
    final: dict[str, str] = {}
    for name in ("us_silver.json", "us_gold.json"):
        for word, said in json.loads((folder / name).read_text(encoding="utf-8")).items():
            if isinstance(said, str):
                entries[word] = said
            else:
                entries[word] = said["DEFAULT"]
                if said.get("None"):
                    final[word] = said["None"]
    return Lexicon(entries, final)


def phonemes_of(pronunciation: str) -> list[str]:
    """Split a pronunciation into phonemes; a stress mark stays with its vowel."""
    return re.findall(f"[{PRIMARY}{SECONDARY}]?[{CONSONANTS}{VOWELS}]", pronunciation)


def add_s(stem: str) -> str:
    """Return the plural, the possessive or the third person of a pronunciation."""
    if stem[-1] in _SIBILANTS:
        return f"{stem}ᵻz"
    return f"{stem}s" if stem[-1] in _VOICELESS else f"{stem}z"


def add_ed(stem: str) -> str:
    """Return the past tense of a pronunciation."""
    if stem[-1] in "td":
        return f"{_flapped(stem)}ᵻd"
    return f"{stem}t" if stem[-1] in _VOICELESS else f"{stem}d"


def add_ing(stem: str) -> str:
    """Return the present participle of a pronunciation."""
    return f"{_flapped(stem)}ɪŋ"


def with_stress(pronunciation: str) -> str:
    """Return a pronunciation with primary stress on its first vowel if it had no stress at all."""
    if PRIMARY in pronunciation or SECONDARY in pronunciation:
        return pronunciation
    return re.sub(f"[{VOWELS}]", rf"{PRIMARY}\g<0>", pronunciation, count=1)


def is_spelled(word: str) -> bool:
    """Tell whether a word without pronunciation can only be read by its letters: it has no vowel."""
    return not _VOWEL_LETTERS & set(word.lower())


def _flapped(stem: str) -> str:
    return f"{stem[:-1]}ɾ" if stem[-1] == "t" and len(stem) > 1 and stem[-2] in _FLAPPED_AFTER else stem


def _stems_of_s(word: str) -> list[str]:
    if not word.endswith(("s", "S")) or word.lower().endswith(("ss", "us", "is")):
        return []
    stems = [word[:-1]]
    if word.lower().endswith("es"):
        stems.append(word[:-2])
    if word.lower().endswith("ies"):
        stems.append(f"{word[:-3]}y")
    return stems


def _stems_of_ed(word: str) -> list[str]:
    if not word.lower().endswith("ed"):
        return []
    stem = word[:-2]
    stems = [stem, word[:-1], *_undoubled(stem)]
    if stem.endswith(("i", "I")):
        stems.append(f"{stem[:-1]}y")
    return stems


def _stems_of_ing(word: str) -> list[str]:
    if not word.lower().endswith("ing") or is_spelled(word[:-3]):
        return []
    stem = word[:-3]
    return [stem, f"{stem}e", *_undoubled(stem)]


def _undoubled(stem: str) -> list[str]:
    """Return ``stop`` for ``stopp``, ``panic`` for ``panick``."""
    doubled = len(stem) > 2 and stem[-1] == stem[-2] and stem[-1].lower() not in _VOWEL_LETTERS
    return [stem[:-1]] if doubled or stem.lower().endswith("ck") else []
