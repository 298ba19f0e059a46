"""Named text normalisers for scoring: a result that does not name its normaliser cannot be compared."""

import re
import unicodedata
from collections.abc import Callable, Mapping
from functools import lru_cache
from types import MappingProxyType

from speechnar.errors import ConfigError
from speechnar.extras import needs

Normalizer = Callable[[str, str], str]
"""Takes a text and its ISO 639-3 language, returns what is scored."""

_APOSTROPHES = str.maketrans({"’": "'", "ʼ": "'", "‘": "'", "`": "'", "´": "'"})
_LOOSE_APOSTROPHE = re.compile(r"(?<!\w)'|'(?!\w)")
_TURKIC = frozenset({"tur", "aze"})


def _none(text: str, lang: str) -> str:
    """Leave the text as it is."""
    return text


def _basic(text: str, lang: str) -> str:
    """NFKC, lower case, punctuation and symbols to spaces except apostrophes inside words, single spaces."""
    # Apostrophes first: NFKC turns the free-standing acute into a space and an accent.
    text = unicodedata.normalize("NFKC", text.translate(_APOSTROPHES))
    # Lower-casing can leave a decomposed character ("İ"), so compose once more.
    text = unicodedata.normalize("NFKC", _lower(text, lang))
    kept = "".join(letter if letter == "'" or _is_spoken(letter) else " " for letter in text)
    return " ".join(_LOOSE_APOSTROPHE.sub(" ", kept).split())


def _kaldi_upper(text: str, lang: str) -> str:
    """As "basic", in upper case: the form of LibriSpeech's and AN4's transcripts."""
    basic = _basic(text, lang)
    return (basic.replace("i", "İ") if lang in _TURKIC else basic).upper()


def _spoken(text: str, lang: str) -> str:
    """As "basic", English with figures, signs and abbreviations in the words that are said, and without hyphens."""
    from speechnar.text.spoken import spell_out  # noqa: PLC0415  # slow to import, rarely needed

    return _basic(spell_out(text) if lang == "eng" else text, lang)


def _whisper(text: str, lang: str) -> str:
    """As Whisper is scored, by its English rules or those for all other languages; not idempotent.

    Source: Radford et al., "Robust Speech Recognition via Large-Scale Weak Supervision", ICML 2023, appendix C.

    Raises:
        MissingExtraError: whisper-normalizer is not installed.
    """
    # Its English rules may leave a space at an end.
    return str(_whisper_rules(lang == "eng")(text)).strip()


@lru_cache
def _whisper_rules(is_english: bool) -> Callable[[str], str]:
    with needs("eval"):
        from whisper_normalizer.basic import BasicTextNormalizer  # noqa: PLC0415  # an extra
        from whisper_normalizer.english import EnglishTextNormalizer  # noqa: PLC0415  # an extra
    rules: Callable[[str], str] = EnglishTextNormalizer() if is_english else BasicTextNormalizer()
    return rules


NORMALIZERS: Mapping[str, Normalizer] = MappingProxyType(
    {"none": _none, "basic": _basic, "kaldi-upper": _kaldi_upper, "spoken": _spoken, "whisper": _whisper}
)
"""Every normaliser by the name that results carry."""


def get_normalizer(name: str) -> Normalizer:
    """Return the normaliser of that name.

    Raises:
        ConfigError: there is none; the message lists them.
    """
    try:
        return NORMALIZERS[name]
    except KeyError:
        raise ConfigError(f"normalizer must be one of {', '.join(NORMALIZERS)}, got {name!r}") from None


def _lower(text: str, lang: str) -> str:
    # In Turkish and Azerbaijani the dotless and the dotted i are different letters in both cases.
    return (text.replace("İ", "i").replace("I", "ı") if lang in _TURKIC else text).lower()


def _is_spoken(letter: str) -> bool:
    """Tell letters, marks and numbers from punctuation, symbols, separators and control characters."""
    return unicodedata.category(letter)[0] in "LMN"
