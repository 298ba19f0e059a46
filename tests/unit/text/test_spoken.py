"""Text as it is read: every class of non-standard word, and any string at all."""

import re
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from speechnar.text.lexicon import english
from speechnar.text.numbers import cardinal
from speechnar.text.spoken import MARKS, join_spoken, spell_out, spoken_words

english()  # read once, before anything is timed, as is what numbers are read by
cardinal("1")
PAIRS = Path(__file__).with_name("spoken_pairs.tsv")
SPEAKABLE = re.compile(rf"(?:WORD(?:[{MARKS}]? WORD)*[{MARKS}]?)?".replace("WORD", "'?[A-Za-z]+(?:['-][A-Za-z]+)*'?"))
# Letters and signs that meet in real text far more often than in a random string.
busy = st.text(st.sampled_from("aAbIVXsSt019 .,:;!?-—–'\"()/@$£%&+#°½…é½🎉\u200b\x07"), max_size=60)
pieces = st.lists(
    st.sampled_from(
        [
            *("Dr.", "St.", "No.", "a.m.", "10:30", "$5", "million", "£3.20", "1985", "5", "km", "in.", "BBC", "US"),
            *("VIII", "Henry", "II", "I", "May", "3-4", "1/2", "e.g.", "U.S.", "-", "--", "('tis)", "www.a.com", "pp."),
            *("A", "s", "1990s", "2nd", "%", "&", "am", "IT", "PC's", "etc.", "J.", "NATO", "Part", "mr", "bn"),
            *("12/25/85", "555-1234", "word(s)"),
        ]
    ),
    max_size=7,
)
joined = st.builds(lambda parts, glue: glue.join(parts), pieces, st.sampled_from([" ", "", ", ", "/"]))


@given(st.text(max_size=60) | busy | joined)
@settings(deadline=None)
def test_any_text_becomes_speakable_and_stays_as_it_is(text):
    said = spell_out(text)
    assert SPEAKABLE.fullmatch(said), said
    assert spell_out(said) == said


@given(st.text(max_size=60) | busy | joined)
@settings(deadline=None)
def test_each_word_of_the_text_knows_what_is_said_for_it(text):
    parts = spoken_words(text)
    assert len(parts) == len(text.split())
    assert join_spoken(part for word in parts for part in word) == spell_out(text)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("in 1985, 1905, 2005 and 2010", "in nineteen eighty-five, nineteen oh five, two thousand five and twenty ten"),
        ("the 1800s, 1980s, '90s", "the eighteen hundreds, nineteen eighties, nineties"),
        ("1,234,567 at 0.05 or .5", "one million two hundred thirty-four thousand five hundred sixty-seven at "
         "zero point zero five or point five"),
        ("1st 22nd 112th", "first twenty-second one hundred twelfth"),
        ("$5.20 £1 €0.01 $1.01 ¥500", "five dollars and twenty cents one pound one cent one dollar and one cent "
         "five hundred yen"),
        ("$3 million; £2.5bn; €20k", "three million dollars; two point five billion pounds; twenty thousand euros"),
        ("25% -5 +3", "twenty-five percent minus five plus three"),
        ("10:30, 10:05 a.m., 9:00, 9:00 PM", "ten thirty, ten oh five A-M, nine o'clock, nine P-M"),
        ("pp. 3-4, 10–20", "pages three to four, ten to twenty"),
        ("Mr. and Mrs. Jones, Dr. Ray of St. Paul", "Mister and Missus Jones, Doctor Ray of Saint Paul"),
        ("12 Main St. on Mill Dr.", "twelve Main Street on Mill Drive."),
        ("e.g. cats, i.e. pets, etc.", "for example cats, that is pets, et cetera."),
        ("No. 5? He said no. 5 came.", "number five? He said number five came."),
        ("She sat. No. He is in. Fig. 3", "She sat. No. He is in. figure three"),
        ("Henry VIII, Louis XIV and World War II", "Henry the eighth, Louis the fourteenth and World War two"),
        ("Chapter I. I said the IV drip", "Chapter one. I said the I-V drip"),
        ("5 km, 1 km, 3 kg, 6 in. wide, 6 in it", "five kilometers, one kilometer, three kilograms, six inches wide, "
         "six in it"),
        ("20°C, 60 km/h, 5m², 90°", "twenty degrees Celsius, sixty kilometers per hour, five square meters, "
         "ninety degrees"),
        ("the BBC's PDFs in the U.S.A. of NASA", "the B-B-C's P-D-F's in the U-S-A of NASA"),
        ("HELLO, GIVE US BREAD", "HELLO, GIVE US BREAD"),
        ("in the US", "in the U-S"),
        ("AT&T & you @ home #1", "AT and T and you at home number one"),
        ("Ask a_b@x.org or https://www.x.com/y-z.", "Ask a underscore b at x dot org or W-W-W dot x dot com slash y "
         "dash z."),
        ("Jan. 5, 1985; 12/25/1985; 1985-12-25", "January fifth, nineteen eighty-five; December twenty-fifth nineteen "
         "eighty-five; December twenty-fifth nineteen eighty-five"),
        ("5½, ½, 3/4, 9/11, 24/7", "five and a half, one half, three quarters, nine eleven, twenty-four seven"),
        ("call 555-1234", "call five five five one two three four"),
        ("“Hello”—she said… ‘so’", "Hello— she said— so"),
        ("'Tis the felons' and men's rock 'n' roll", "'Tis the felons and men's rock 'n' roll"),
        ("naïve café, Ångström, straße, ﬁsh", "naive cafe, Angstrom, strasse, fish"),
        ("hi\x07\u200b 🎉 你好 there", "hi there"),
        ("(so and so) went; word(s)", "so and so, went; word s"),
        ("J. F. Kennedy at 5 p.m. He left", "J F Kennedy at five P-M. He left"),
        ("what?! no... ,", "what? no—"),
        ("St. John's St., 3 p.m. EST", "Saint John's Street, three P-M EST"),
        ("odds of 3:1 (est. 1917)", "odds of three to one, established nineteen seventeen,"),
        ("MP3, B2B, node.js", "M-P three, B two B, node dot J-S"),
    ],
)  # fmt: skip
def test_what_a_reader_says(text, said):
    assert spell_out(text) == said


def test_a_table_of_what_people_write():
    pairs = [line.split("\t") for line in PAIRS.read_text(encoding="utf-8").splitlines() if not line.startswith("# ")]
    assert len(pairs) > 700
    wrong = [(written, said, spell_out(written)) for written, said in pairs if spell_out(written) != said]
    assert not wrong


def test_quotations_of_several_words_are_set_off_by_pauses():
    assert spell_out('The "quick" fox') == "The quick fox"
    assert spell_out('He said "do not go there" and left.') == "He said, do not go there, and left."
    assert spoken_words('He said "do not go"')[1] == ["said", ","], "a pause belongs to the word before it"


def test_both_notations_of_numbers_are_known_by_what_stands_beside_them():
    assert spell_out("1.500 of them cost 2,50 €") == "one thousand five hundred of them cost two euros and fifty cents"
    assert spell_out("1.500 of them cost $2.50") == "one point five zero zero of them cost two dollars and fifty cents"
    assert spell_out("€1.500 $1.500") == "one thousand five hundred euros one point five zero zero dollars"


def test_a_number_in_several_words_is_said_by_all_of_them():
    assert spoken_words("10 000 people") == [["ten"], ["thousand"], ["people"]]
    assert spoken_words("+49 170 1234567.")[1:] == [
        ["one", "seven", "zero"],
        ["one", "two", "three", "four", "five", "six", "seven", "."],
    ]


@pytest.mark.parametrize("text", ["", "  \n", "🎉", "?!", "...", "你好。", "\x00\x1b", "'", "- -", "()"])
def test_nothing_to_say(text):
    assert spell_out(text) == ""


def test_the_currency_belongs_to_the_word_with_the_scale():
    assert spoken_words("$3 million. 🎉 Ok") == [["three"], ["million", "dollars", "."], [], ["Ok"]]


@pytest.mark.parametrize("junk", ["a", "a1", "a.", "1 ", "a-", "'", "$1,", "🎉", "-", "a@", "(1", "a.com", "1:", "BC-"])
def test_ten_thousand_characters_of_anything_take_no_time(junk):
    text = (junk * 10_000)[:10_000]
    start = time.process_time()
    spell_out(text)
    assert time.process_time() - start < 2
