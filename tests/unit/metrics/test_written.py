"""Punctuation and capitals, counted by hand."""

import json

import pytest

from speechnar.errors import DataError
from speechnar.metrics.written import Agreement, WrittenForm, written_form


def compare(ref: str, hyp: str, lang: str = "eng") -> WrittenForm:
    found = written_form([ref], [hyp], [lang])
    assert found is not None
    return found


def marks(found: WrittenForm) -> dict[str, tuple[int, int, int]]:
    return {mark: (its.right, its.num_ref, its.num_hyp) for mark, its in found.marks.items()}


def test_marks_are_compared_at_the_words_they_stand_at():
    found = compare("Yes, I know: the cat sat. Why?", "yes I know, the hat sat. Why!")
    assert marks(found) == {",": (0, 1, 1), ".": (1, 1, 1), ":": (0, 1, 0), "?": (0, 1, 0), "!": (0, 0, 1)}
    assert found.punctuation == Agreement(right=1, num_ref=4, num_hyp=3)
    assert found.punctuation.precision == pytest.approx(1 / 3)
    assert found.punctuation.recall == pytest.approx(1 / 4)
    assert found.punctuation.f1 == pytest.approx(2 / 7)


def test_a_wrong_word_keeps_its_marks_and_a_missing_one_takes_them_along():
    assert marks(compare("the cat, a dog.", "the hat, a dog.")) == {",": (1, 1, 1), ".": (1, 1, 1)}
    assert marks(compare("the cat, a dog.", "the a dog.")) == {",": (0, 1, 0), ".": (1, 1, 1)}
    assert marks(compare("the dog.", "the big, dog.")) == {".": (1, 1, 1), ",": (0, 0, 1)}
    assert marks(compare("the dog.", "the. dog")) == {".": (0, 1, 1)}


def test_capitals_are_compared_in_words_that_are_right():
    found = compare("Anna saw a NASA man in Rome 25 times.", "Anna Saw a Nasa can in rome 25 times.")
    # anna saw a nasa in rome times; "man" is wrong, and a number has no case
    assert (found.num_cased, found.num_same_case) == (7, 4)
    assert found.case_accuracy == pytest.approx(4 / 7)
    assert found.capitals == Agreement(right=1, num_ref=3, num_hyp=3)


def test_chinese_is_aligned_by_characters_and_widths_are_one():
    found = compare("你好，世界！我用 Python。", "你好,世间! 我用python", "cmn")
    assert marks(found) == {",": (1, 1, 1), "!": (1, 1, 1), ".": (0, 1, 0)}
    assert found.capitals is None or found.capitals.num_ref == 1
    assert marks(compare("“你好”、他说……", "「你好」，他说…", "cmn")) == {
        '"': (2, 2, 2),
        ",": (1, 1, 1),
        "…": (1, 1, 1),
    }


def test_opening_marks_belong_to_the_word_behind_them():
    found = compare("Dijo: ¿Qué? (Nada) «ya»", "Dijo ¿Qué? Nada «ya»", "spa")
    assert marks(found) == {
        '"': (2, 2, 2),
        ":": (0, 1, 0),
        "¿": (1, 1, 1),
        "?": (1, 1, 1),
        "(": (0, 1, 0),
        ")": (0, 1, 0),
    }
    # Were it not so, "¿" would be that of "Dijo" here.
    assert marks(compare("Dijo: ¿Qué?", "¿Qué?", "spa"))["¿"] == (1, 1, 1)


def test_what_stands_inside_of_words_is_no_mark():
    found = compare("It's 3.5 well-known and/or 1,000 dogs' bones...", "it’s 3,5 well known and or 1000 dogs bones…")
    assert marks(found) == {"…": (1, 1, 1)}
    assert marks(compare("a – b - c—d.", "a - b — c–d.")) == {"—": (3, 3, 3), ".": (1, 1, 1)}


def test_references_tell_what_is_scored():
    assert written_form(["THE CAT", "A DOG'S"], ["The cat.", "A dog's."], ["eng", "eng"]) is None
    assert written_form(["the cat", "a dog"], ["The cat.", "A dog."], ["eng", "eng"]) is None
    assert written_form([], [], []) is None
    only_marks = written_form(["the cat.", "a dog?", "a cow"], ["the cat.", "A dog.", "."], ["eng"] * 3)
    assert only_marks.capitals is None
    assert only_marks.punctuation == Agreement(right=1, num_ref=2, num_hyp=2)
    # Each language by itself: the marks of the French hypothesis stand against a plain reference.
    both = written_form(["The cat.", "le chat"], ["The cat.", "Le chat."], ["eng", "fra"])
    assert both.punctuation == Agreement(right=1, num_ref=1, num_hyp=1)
    assert both.num_cased == 2
    with pytest.raises(DataError, match="equally many, got 1, 2 and 1"):
        written_form(["a"], ["a", "b"], ["eng"])


def test_nothing_recognised_is_nothing_right():
    found = compare("The cat.", "")
    assert (found.punctuation.precision, found.punctuation.recall, found.punctuation.f1) == (0, 0, 0)
    assert (found.num_cased, found.case_accuracy) == (0, 0)
    assert compare("The cat.", "The cat.").punctuation.f1 == 1


def test_the_report_names_what_was_counted():
    found = compare("The cat, in Rome.", "The cat in rome.")
    assert str(found) == (
        "punctuation F1 66.67 (precision 100.00, recall 50.00; 2 marks); "
        "case right in 75.00 % of 4 right words (capitals F1 66.67; 2 capitalised)"
    )
    values = json.loads(json.dumps(found.to_dict()))
    assert values["punctuation"]["recall"] == 0.5
    assert values["marks"]["."]["f1"] == 1
    assert values["case"] == {"accuracy": 0.75, "words": 4, "right": 3}
    plain = WrittenForm(punctuation=None, marks={}, capitals=found.capitals, num_cased=4, num_same_case=3)
    assert plain.to_dict().keys() == {"capitals", "case"}
    assert str(plain).startswith("case right")
