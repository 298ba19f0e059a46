"""What people copy rather than write: web and mail addresses, paths, versions, hosts, telephone numbers.

Functions take the string and return the words that are said for it.
"""

import re
from collections.abc import Callable

from speechnar.text.numbers import cardinal, digit_by_digit, pair
from speechnar.text.written_forms import ABBREVIATIONS, BEFORE_NUMBER, SIGNS, TITLES

_DOMAINS = "com|org|net|edu|gov|io|ai|co|uk|us|eu|de|fr|info|biz|dev|app|tv|me"
_ENDINGS = (
    "py|md|txt|pdf|json|yaml|yml|html|js|ts|css|csv|tsv|wav|mp3|mp4|jpg|jpeg|png|gif|zip|gz|tar|sh|cpp|toml|ini|cfg"
)
_ENDINGS += "|xml|exe|docx?|xlsx?|pptx?|log|sql|ipynb|onnx|conf|lock|rs|go"
URL = rf"""(?:(?:https?|ftp|ssh|git)://|www\.)[A-Za-z0-9][\w./?=&%#:~+@-]*[A-Za-z0-9/]
       | (?:mailto:)?[A-Za-z0-9][\w.+-]*@[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)*\.[A-Za-z]+
       | localhost:\d+(?:/[\w./?=&%#:~+-]*)?
       | [A-Za-z][A-Za-z0-9-]*(?:\.[A-Za-z0-9-]+)*\.(?:{_DOMAINS})(?::\d+)?(?:/[\w./?=&%#:~+-]*)?(?![\w.])
       | (?<!\S)(?:~?/[\w.-]+(?:/[\w.-]+)*/?|\.{{1,2}}/[\w./-]+|[A-Za-z]:\\[\w.\\-]+)(?<!\.)
       | [A-Za-z_][\w-]*(?:[./][\w-]+)*\.(?:{_ENDINGS})(?![\w.]*\w)"""
IP = r"(?:\d{1,3}\.){3}\d{1,3}(?:/\d{1,2}|:\d{1,5})?(?![.:]?\d)"
HEX = r"""0x[0-9A-Fa-f]+\b
       | (?<![\w:])(?=[\d:]*(?:[A-Fa-f]|::))(?=[A-Fa-f:]*\d)[0-9A-Fa-f]{0,4}(?::[0-9A-Fa-f]{0,4}){3,7}(?![\w:])"""
VERSION = r"""(?:[vV](?=\d+\.)|v(?=\d))\d+(?:\.\d+)*(?:\.x\b)?(?:[-.]?(?:alpha|beta|rc|dev|pre|post)[.-]?\d*\b)?
       | \d+(?:\.\d+){2,}(?:[-.]?(?:alpha|beta|rc|dev|pre|post)[.-]?\d*\b)? | \d+(?:\.\d+)?\.x\b
       | \d+\.\d+[-.]?(?:alpha|beta|rc|dev|pre|post)[.-]?\d*\b"""
_PHONE = re.compile(
    r"""(?<![\w.,$€£/:+-])(?:
    \+\d{1,3}(?:[ ./-]{0,2}\(?\d{1,5}\)?){2,6}
  | (?:1[ .-])?\(\d{2,5}\)[ -]?\d{3,}(?:[ .-]\d{2,}){0,3}
  | 0\d{1,4}(?:[ ]?[/-][ ]?|[ ])\d{3,}(?:[ -]?\d{2,}){0,3}
  | (?:1[ .-])?\d{3}([ .-])\d{3}\1\d{4}
  | (?:\d-)?(?:\d{3}-)?\d{3}-\d{4}
  | \d{4}(?:[ ]\d{4}){3}
  | [A-Z]{2}\d{2}(?:[ ][\dA-Z]{4}){3,7}(?:[ ][\dA-Z]{1,4})?
  | (?<=[Cc]all[ ])\d{3} | (?<=[Dd]ial[ ])\d{3} | (?<=\b[A-Z]{2}[ ])\d{5}(?:-\d{4})?
    )(?![\w€$£%/:]|[.,]\d|-\d)""",
    re.VERBOSE,
)
_MIN_PHONE_DIGITS = 7
_SPELLED = {
    "www",
    "st",
    "dr",
    *TITLES,
    *ABBREVIATIONS,
    *BEFORE_NUMBER,
    "uk",
    "eu",
    "tv",
    "ai",
    "py",
    "md",
    "js",
    "ts",
    "etc",
}
_SPELLED |= {"sh", "io", "id", "us", "ini"}


def phone_spans(text: str) -> list[tuple[int, int]]:
    """Return where numbers stand in ``text`` that are read digit by digit: of telephones, cards and accounts."""
    found = []
    for match in _PHONE.finditer(text):
        digits, begins = re.sub(r"\D", "", match[0]), text[: match.start()]
        if len(digits) >= _MIN_PHONE_DIGITS or len(digits) in (3, 5) or begins.endswith("("):
            found.append(match.span())
    return found


def read_address(text: str, spell: Callable[[str], str]) -> str:
    """Return a web or mail address or a path as it is dictated; ``spell`` may write words by letters."""
    text = re.sub(r"^(?:https?|ftp|ssh|git)://|^mailto:", "", text)
    if not text.startswith(("/", "~")) and not re.fullmatch(r"\W+", text):
        text = re.sub(r"(?<=\w)/$", "", text)
    said = []
    for part in re.findall(rf"{IP}|(?<=:)\d+|[A-Z]?[a-z]+|[A-Z]+(?![a-z])|\d+|[^A-Za-z\d]", text):
        if re.fullmatch(IP, part):
            said.append(read_ip(part))
        elif part.isdigit():
            said.append(digit_by_digit(part) if len(part) > 4 or said[-1:] == ["colon"] else cardinal(part))
        elif part.isalpha():
            said.append("-".join(part.upper()) if part.lower() in _SPELLED else spell(part.lower()))
        else:
            said.append(SIGNS.get(part, ""))
    return " ".join(part for part in said if part)


def read_ip(text: str) -> str:
    """Return ``192.168.0.1`` and the like, with what follows a slash or a colon: three digits one by one."""
    said = []
    for part in re.findall(r"\d+|\D", text):
        if part.isdigit():
            said.append(cardinal(part) if len(part) < 3 or part.endswith("00") else digit_by_digit(part))
        else:
            said.append(SIGNS[part])
    return " ".join(said)


def read_hex(text: str) -> str:
    """Return an address of IPv6 or of a network card, or a hexadecimal number, sign by sign."""
    names = {":": "colon", **{letter: letter for letter in "ABCDEFX"}}
    return " ".join(names.get(sign) or digit_by_digit(sign) for sign in text.upper())


def read_version(text: str) -> str:
    """Return ``v2.12.1-rc1`` as *version two point twelve point one R-C one*."""
    said = ["version"] if text[0] in "vV" else []
    for part in re.findall(r"\d+|[A-Za-z]+|\.", text.lstrip("vV").replace("-", " ")):
        if part == ".":
            said.append("point")
        elif part.isdigit():
            said.append(pair(part) if len(part) < 3 else cardinal(part))
        else:
            said.append("-".join(part.upper()) if part in ("rc", "x") else part.replace("dev", "dev"))
    return re.sub(r"point (?=[a-zR])(?=alpha|beta|dev|pre|post|R-C)", "", " ".join(said))
