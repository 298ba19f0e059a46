"""BLEU and chrF: closed forms and signatures."""

import math

import pytest

from speechnar.errors import DataError
from speechnar.metrics.translation import Score, bleu, chrf

REF = "the quick brown fox jumps over the lazy dog"


def test_equal_text_scores_one():
    assert bleu([REF], [REF]).value == pytest.approx(1.0)
    assert chrf([REF], [REF]).value == pytest.approx(1.0)


def test_bleu_of_a_prefix_is_its_brevity_penalty():
    """Every n-gram of the prefix is right, so BLEU = exp(1 - r/c) with r = 9 and c = 6 words."""
    assert bleu([REF], ["the quick brown fox jumps over"]).value == pytest.approx(math.exp(1 - 9 / 6))


def test_bleu_is_of_the_corpus_not_the_mean_of_sentences():
    assert bleu([REF, REF], [REF, ""]).value == pytest.approx(math.exp(1 - 18 / 9))


def test_case_counts_unless_told_otherwise():
    assert bleu([REF], [REF.upper()]).value == 0
    lower = bleu([REF], [REF.upper()], lowercase=True)
    assert lower.value == pytest.approx(1.0) and "case:lc" in lower.signature


def test_chrf_counts_character_ngrams():
    # "ab" against "abc": n-grams 1 and 2 match with precision 1, recall 2/3 and 1/2; orders above 2 have no hypothesis.
    precision, recall = 1.0, (2 / 3 + 1 / 2) / 2
    assert chrf(["abc"], ["ab"]).value == pytest.approx(5 * precision * recall / (4 * precision + recall))


@pytest.mark.parametrize(("lang", "tokenizer"), [("deu", "13a"), ("zho", "zh"), ("jpn", "char"), ("tha", "char")])
def test_the_language_chooses_the_tokenisation_and_the_signature_says_so(lang, tokenizer):
    assert f"tok:{tokenizer}|" in bleu(["a b c d e"], ["a b c d e"], lang=lang).signature


def test_scripts_without_spaces_are_split():
    # One of eight characters differs; as a single word the score would be 0.
    assert bleu(["今天天气非常好呢"], ["今天天气非常好吗"], lang="zho").value > 0.8


def test_printed_line():
    assert str(Score("BLEU", 0.1234, "tok:13a")) == "BLEU 12.34 (tok:13a)"


@pytest.mark.parametrize(("refs", "hyps"), [([], []), (["a"], []), ("a", ["a"])])
def test_unpaired_input_is_refused(refs, hyps):
    for score in (bleu, chrf):
        with pytest.raises(DataError, match="references and hypotheses must be"):
            score(refs, hyps)
