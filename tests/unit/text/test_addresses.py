"""Addresses, versions and telephone numbers as they are dictated."""

import re

import pytest

from speechnar.text.addresses import IP, URL, phone_spans, read_address, read_hex, read_ip, read_version


def as_it_is(word):
    return word


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("Call +49 170 1234567 or (555) 123-4567.", ["+49 170 1234567", "(555) 123-4567"]),
        ("1-800-555-1234, 555.123.4567, 030/1234567", ["1-800-555-1234", "555.123.4567", "030/1234567"]),
        (
            "card 4111 1111 1111 1111 of DE89 3704 0044 0532 0130 00",
            ["4111 1111 1111 1111", "DE89 3704 0044 0532 0130 00"],
        ),
        ("call 112, CA 94043", ["112", "94043"]),
        ("in 1985 and 2005, $555-1234, 10-12, 3.141.592, 2024-12-24, 100 000 000", []),
        ("+5% and +10 or 0800", []),
    ],
)
def test_telephone_numbers_and_the_like_are_found(text, numbers):
    assert [text[begin:end] for begin, end in phone_spans(text)] == numbers


@pytest.mark.parametrize(
    ("address", "said"),
    [
        (
            "https://www.example.com/a_b?x=1&y=2",
            "W-W-W dot example dot com slash a underscore b question mark x equals one and y equals two",
        ),
        ("info@example.com", "info at example dot com"),
        ("http://10.0.0.1:8080/", "ten dot zero dot zero dot one colon eight zero eight zero"),
        ("~/src/main.py", "tilde slash src slash main dot P-Y"),
        ("README.md", "readme dot M-D"),
    ],
)
def test_addresses_are_read_piece_by_piece(address, said):
    assert re.fullmatch(URL, address, re.VERBOSE)
    assert read_address(address, as_it_is) == said


def test_hosts_are_read_digit_by_digit_where_that_is_usual():
    assert re.fullmatch(IP, "192.168.0.1:80")
    assert read_ip("192.168.0.1") == "one nine two dot one six eight dot zero dot one"
    assert read_hex("fe80::1") == "F E eight zero colon colon one"


def test_versions_have_points():
    assert read_version("v2.12.1-rc1") == "version two point twelve point one R-C one"
    assert read_version("22.04") == "twenty-two point oh four"
