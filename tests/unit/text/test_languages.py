"""Language codes."""

import pytest

from speechnar.errors import ConfigError
from speechnar.text.languages import ISO3_TO_ISO1, name_of, to_iso3


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        *(("en", "eng"), ("eng", "eng"), ("English", "eng"), (" ENGLISH ", "eng"), ("en-US", "eng"), ("de_DE", "deu")),
        *(("ger", "deu"), ("zh", "zho"), ("zh-Hans-CN", "zho"), ("Mandarin", "cmn"), ("fa", "fas"), ("yue", "yue")),
        *(("Norwegian Bokmål", "nob"), ("tok pisin", "tpi"), ("ast", "ast"), ("sw", "swa")),
    ],
)
def test_codes_names_and_locales(given, expected):
    assert to_iso3(given) == expected


@pytest.mark.parametrize("wrong", ["xx", "qqq", "", "eng;rm", "tok-pisin"])
def test_unknown_languages_raise(wrong):
    with pytest.raises(ConfigError, match="ISO 639-3"):
        to_iso3(wrong)


def test_the_error_offers_the_nearest():
    with pytest.raises(ConfigError, match=r"did you mean german \(German\)"):
        to_iso3("Germam")


def test_the_tables_are_inverse():
    assert ISO3_TO_ISO1["deu"] == "de" and "cmn" not in ISO3_TO_ISO1
    assert len(set(ISO3_TO_ISO1.values())) == len(ISO3_TO_ISO1) == 184
    for iso3, iso1 in ISO3_TO_ISO1.items():
        assert to_iso3(iso1) == to_iso3(iso3) == to_iso3(name_of(iso3)) == iso3


def test_name_of_any_form():
    assert name_of("fr") == name_of("fre") == name_of("fra") == "French"
