"""Language codes: ISO 639-3 everywhere inside, ISO 639-1 and English names accepted from users.

The table holds every ISO 639-1 language and those that OWSM models name beyond it. Source: the ISO 639-3 code tables.
"""

import difflib
import re
from typing import NamedTuple

from speechnar.errors import ConfigError

UNDETERMINED = "und"
"""Of speech whose language is not known."""
UNSPACED_LANGUAGES = frozenset({"bod", "cmn", "dzo", "jpn", "khm", "lao", "mya", "nan", "tha", "yue", "zho"})
"""Written without spaces between words: spaces there carry nothing, and words cannot be counted."""


class _Language(NamedTuple):
    iso1: str
    name: str


# One language per line: ISO 639-3, ISO 639-1 (or -), English name.
_TABLE = """
aar aa Afar
abk ab Abkhazian
afr af Afrikaans
aka ak Akan
amh am Amharic
ara ar Arabic
arg an Aragonese
asm as Assamese
ast - Asturian
ava av Avaric
ave ae Avestan
aym ay Aymara
aze az Azerbaijani
bak ba Bashkir
bam bm Bambara
bas - Basa
bel be Belarusian
ben bn Bengali
bis bi Bislama
bod bo Tibetan
bos bs Bosnian
bre br Breton
bul bg Bulgarian
cat ca Catalan
ceb - Cebuano
ces cs Czech
cha ch Chamorro
che ce Chechen
chu cu Church Slavic
chv cv Chuvash
ckb - Central Kurdish
cmn - Mandarin Chinese
cnh - Hakha Chin
cor kw Cornish
cos co Corsican
cre cr Cree
cym cy Welsh
dan da Danish
deu de German
dgd - Dagaari Dioula
div dv Dhivehi
dzo dz Dzongkha
ell el Greek
eng en English
epo eo Esperanto
est et Estonian
eus eu Basque
ewe ee Ewe
fao fo Faroese
fas fa Persian
fij fj Fijian
fil - Filipino
fin fi Finnish
fra fr French
frr - Northern Frisian
fry fy Western Frisian
ful ff Fulah
gla gd Scottish Gaelic
gle ga Irish
glg gl Galician
glv gv Manx
grn gn Guarani
guj gu Gujarati
hat ht Haitian Creole
hau ha Hausa
haw - Hawaiian
hbs sh Serbo-Croatian
heb he Hebrew
her hz Herero
hin hi Hindi
hmo ho Hiri Motu
hrv hr Croatian
hsb - Upper Sorbian
hun hu Hungarian
hye hy Armenian
ibo ig Igbo
ido io Ido
iii ii Sichuan Yi
iku iu Inuktitut
ile ie Interlingue
ina ia Interlingua
ind id Indonesian
ipk ik Inupiaq
isl is Icelandic
ita it Italian
jav jv Javanese
jpn ja Japanese
kab - Kabyle
kal kl Kalaallisut
kam - Kamba
kan kn Kannada
kas ks Kashmiri
kat ka Georgian
kau kr Kanuri
kaz kk Kazakh
kea - Kabuverdianu
khm km Khmer
kik ki Kikuyu
kin rw Kinyarwanda
kir ky Kyrgyz
kmr - Northern Kurdish
kom kv Komi
kon kg Kongo
kor ko Korean
kua kj Kuanyama
kur ku Kurdish
lao lo Lao
lat la Latin
lav lv Latvian
lga - Lungga
lim li Limburgish
lin ln Lingala
lit lt Lithuanian
ltz lb Luxembourgish
lub lu Luba-Katanga
lug lg Ganda
luo - Luo
lvs - Standard Latvian
mah mh Marshallese
mal ml Malayalam
mar mr Marathi
mas - Masai
mdf - Moksha
mhr - Eastern Mari
mkd mk Macedonian
mlg mg Malagasy
mlt mt Maltese
mon mn Mongolian
mri mi Maori
mrj - Western Mari
msa ms Malay
mya my Burmese
myv - Erzya
nan - Min Nan Chinese
nau na Nauru
nav nv Navajo
nbl nr South Ndebele
nde nd North Ndebele
ndo ng Ndonga
nep ne Nepali
nld nl Dutch
nno nn Norwegian Nynorsk
nob nb Norwegian Bokmål
nor no Norwegian
npi - Nepali (individual language)
nso - Northern Sotho
nya ny Chichewa
oci oc Occitan
oji oj Ojibwa
ori or Oriya
orm om Oromo
ory - Odia
oss os Ossetian
pan pa Punjabi
pli pi Pali
pol pl Polish
por pt Portuguese
pus ps Pashto
que qu Quechua
quy - Ayacucho Quechua
roh rm Romansh
ron ro Romanian
run rn Rundi
rus ru Russian
sag sg Sango
sah - Yakut
san sa Sanskrit
sat - Santali
sin si Sinhala
skr - Saraiki
slk sk Slovak
slv sl Slovenian
sme se Northern Sami
smo sm Samoan
sna sn Shona
snd sd Sindhi
som so Somali
sot st Southern Sotho
spa es Spanish
sqi sq Albanian
srd sc Sardinian
srp sr Serbian
ssw ss Swati
sun su Sundanese
swa sw Swahili
swe sv Swedish
swh - Swahili (individual language)
tah ty Tahitian
tam ta Tamil
tat tt Tatar
tel te Telugu
tgk tg Tajik
tgl tl Tagalog
tha th Thai
tig - Tigre
tir ti Tigrinya
tok - Toki Pona
ton to Tonga
tpi - Tok Pisin
tsn tn Tswana
tso ts Tsonga
tuk tk Turkmen
tur tr Turkish
twi tw Twi
uig ug Uyghur
ukr uk Ukrainian
umb - Umbundu
urd ur Urdu
uzb uz Uzbek
ven ve Venda
vie vi Vietnamese
vol vo Volapük
vot - Votic
wln wa Walloon
wol wo Wolof
xho xh Xhosa
xty - Yoloxochitl Mixtec
yid yi Yiddish
yor yo Yoruba
yue - Cantonese
zgh - Standard Moroccan Tamazight
zha za Zhuang
zho zh Chinese
zul zu Zulu
"""

_LANGUAGES = {
    iso3: _Language("" if iso1 == "-" else iso1, name)
    for iso3, iso1, name in (line.split(" ", 2) for line in _TABLE.strip().splitlines())
}

ISO3_TO_ISO1: dict[str, str] = {iso3: language.iso1 for iso3, language in _LANGUAGES.items() if language.iso1}
"""ISO 639-1 code of each ISO 639-3 code that has one."""

_ALIASES = {
    # ISO 639-2/B, which libraries and media files still use.
    **{"alb": "sqi", "arm": "hye", "baq": "eus", "bur": "mya", "chi": "zho", "cze": "ces", "dut": "nld", "fre": "fra"},
    **{"geo": "kat", "ger": "deu", "gre": "ell", "ice": "isl", "mac": "mkd", "mao": "mri", "may": "msa", "per": "fas"},
    **{"rum": "ron", "slo": "slk", "tib": "bod", "wel": "cym"},
    # Other names in common use.
    **{"mandarin": "cmn", "farsi": "fas", "castilian": "spa", "flemish": "nld", "bangla": "ben", "gaelic": "gla"},
    **{"kurmanji": "kmr", "sorani": "ckb", "iw": "heb", "in": "ind", "jw": "jav"},
}
_TO_ISO3 = {
    **{language.name.lower(): iso3 for iso3, language in _LANGUAGES.items()},
    **_ALIASES,
    **{iso1: iso3 for iso3, iso1 in ISO3_TO_ISO1.items()},
    **{iso3: iso3 for iso3 in _LANGUAGES},
}
# A code with script or region, as locales and browsers write it; "tok-pisin" is not one.
_REGIONAL = re.compile(r"([a-z]{2,3})(?:[-_][a-z0-9]{2,4})+")


def to_iso3(code: str) -> str:
    """Return the ISO 639-3 code for a code or English name, in any case: "en", "eng", "English", "en-US" give "eng".

    Raises:
        ConfigError: the language is unknown; the message offers the nearest.
    """
    wanted = " ".join(code.split()).lower()
    tagged = _REGIONAL.fullmatch(wanted)
    iso3 = _TO_ISO3.get(tagged[1] if tagged else wanted)
    if iso3 is None:
        near = difflib.get_close_matches(wanted, _TO_ISO3, n=1)
        hint = f"did you mean {near[0]} ({name_of(near[0])})?" if near else "for example eng, en or English"
        raise ConfigError(f"language must be an ISO 639-3 or 639-1 code or an English name, got {code!r}; {hint}")
    return iso3


def name_of(code: str) -> str:
    """Return the English name of a language given as :func:`to_iso3` accepts it.

    Raises:
        ConfigError: the language is unknown.
    """
    return _LANGUAGES[to_iso3(code)].name
