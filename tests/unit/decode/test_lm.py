import gzip
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from speechnar.decode.lm import HotwordBooster, NgramLm, WordNgram, WordRewards
from speechnar.errors import ConfigError, DataError
from speechnar.text.byte_pairs import BytePairTokenizer
from tests.unit.decode.sentences import sentence_log_prob
from tests.unit.text.test_byte_pairs import MERGES, make

ARPA = r"""written by hand

\data\
ngram 1=5
ngram 2=3
ngram 3=1

\1-grams:
-1.0	<unk>
-99	<s>	-0.5
-0.7	</s>
-0.6	a	-0.4
-0.9	b	-0.3

\2-grams:
-0.2	<s> a	-0.1
-0.3	a b	-0.05
-0.4	b </s>

\3-grams:
-0.15	<s> a b

\end\
"""


@pytest.fixture
def arpa(tmp_path):
    path = tmp_path / "lm.arpa"
    path.write_text(ARPA, encoding="utf-8")
    return path


def log10(value: float) -> float:
    return value / math.log(10)


@pytest.mark.parametrize(
    ("sentence", "expected"),
    [
        # p(a|<s>) p(b|<s> a) p(</s>|a b): no (a b </s>), so back-off of (a b), then (b </s>)
        ("a b", -0.2 - 0.15 + (-0.05 - 0.4)),
        # p(b|<s>) backs off; p(a|<s> b): neither (<s> b) nor (b a), back-off of b only; p(</s>|b a): back-off of a
        ("b a", (-0.5 - 0.9) + (-0.3 - 0.6) + (-0.4 - 0.7)),
        ("", -0.5 - 0.7),
        # <unk> has no back-off weight of its own
        ("a zebra b", -0.2 + (-0.1 - 0.4 - 1.0) + -0.9 + -0.4),
    ],
)
def test_probabilities_by_hand(arpa, sentence, expected):
    assert log10(sentence_log_prob(NgramLm.read_arpa(arpa), sentence.split())) == pytest.approx(expected)


def test_gzip_is_recognised_by_content(arpa, tmp_path):
    packed = tmp_path / "lm.bin"
    packed.write_bytes(gzip.compress(ARPA.encode()))
    lm = NgramLm.read_arpa(packed)
    assert lm.order == 3 and sentence_log_prob(lm, ["a"]) == sentence_log_prob(NgramLm.read_arpa(arpa), ["a"])


def test_oov_without_unknown_word_has_a_floor(tmp_path):
    path = tmp_path / "lm.arpa"
    path.write_text("\\data\\\nngram 1=1\n\\1-grams:\n-0.5\ta\n\\end\\\n", encoding="utf-8")
    assert log10(sentence_log_prob(NgramLm.read_arpa(path), ["x", "a"])) == pytest.approx(-10.5)


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        ("\\data\\", "data", r"no \\data\\ line"),
        ("ngram 2=3", "ngram 2=4", r":20: 4 2-grams were announced, 3 found"),
        ("ngram 2=3", "ngram 5=3", r":5: expected 'ngram 2=COUNT'"),
        ("\\2-grams:", "\\3-grams:", r":15: expected \\2-grams:"),
        ("-0.6\ta", "zero\ta", r":12: expected a number, got 'zero'"),
        ("-0.6\ta", "nan\ta", r":12: expected a finite number"),
        ("-0.6\ta", "0.6\ta", r":12: a log-probability must not be above 0"),
        ("a b\t-0.05", "a b b b\t-0.05", r":17: a 2-gram needs 3 or 4 fields, got 6"),
        ("-0.3\ta b", "-0.3\ta q", r":17: 'q' is not among the 1-grams"),
        ("-0.3\ta b", "-0.3\t<s> a", r":17: '<s> a' is listed twice"),
        ("\\end\\", "", r"without \\end\\; it is cut off"),
        ("\\end\\", "\\4-grams:", r":23: expected \\end\\"),
        ("-0.9\tb", "-0.9\t" + "b" * 70_000, r":13: a line must be shorter"),
    ],
)
def test_faults_name_the_line(arpa, old, new, fault):
    assert old in ARPA
    arpa.write_text(ARPA.replace(old, new, 1), encoding="utf-8")
    with pytest.raises(DataError, match=fault):
        NgramLm.read_arpa(arpa)


def test_unreadable_files(arpa, tmp_path):
    arpa.write_bytes(ARPA.replace("-0.6\ta", "-0.6\t\xe9").encode("latin-1"))
    with pytest.raises(DataError, match="UTF-8"):
        NgramLm.read_arpa(arpa)
    arpa.write_bytes(gzip.compress(ARPA.encode())[:-20])
    with pytest.raises(DataError, match="gzip data is damaged"):
        NgramLm.read_arpa(arpa)
    with pytest.raises(DataError, match="cannot be read"):
        NgramLm.read_arpa(tmp_path / "none.arpa")


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_damaged_files_read_or_give_data_error(tmp_path_factory, data):
    raw = bytearray(data.draw(st.sampled_from([ARPA.encode(), gzip.compress(ARPA.encode())])))
    for _ in range(data.draw(st.integers(1, 4))):
        position = data.draw(st.integers(0, len(raw)))
        length = data.draw(st.integers(0, 12))
        raw[position : position + length] = data.draw(st.binary(max_size=6))
    path = tmp_path_factory.getbasetemp() / "damaged.arpa"
    path.write_bytes(bytes(raw))
    try:
        lm = NgramLm.read_arpa(path)
    except DataError as error:
        assert str(path) in str(error) and "\n" not in str(error)
    else:
        assert not math.isnan(sentence_log_prob(lm, ["a", "b"]))


@settings(max_examples=100, deadline=None)
@given(st.lists(st.floats(0.01, 1.0), min_size=4, max_size=4), st.lists(st.sampled_from("abz"), max_size=5))
def test_backoff_model_sums_to_one(tmp_path_factory, weights, sentence):
    """A bigram model with back-off weights computed for normalisation must give probabilities that sum to 1."""
    mass = [weight / sum(weights) for weight in weights]
    words = ["</s>", "a", "b", "<unk>"]
    unigram = dict(zip(words, mass, strict=True))
    bigram = 0.5  # p(b | a) and p(a | <s>)
    backoff = {"a": (1 - bigram) / (1 - unigram["b"]), "<s>": (1 - bigram) / (1 - unigram["a"])}
    lines = [f"{math.log10(unigram[w]):.9f}\t{w}\t{math.log10(backoff.get(w, 1.0)):.9f}" for w in words]
    lines.append(f"-99\t<s>\t{math.log10(backoff['<s>']):.9f}")
    half = math.log10(bigram)
    text = ["\\data\\", "ngram 1=5", "ngram 2=2", "\\1-grams:", *lines, "\\2-grams:"]
    text += [f"{half}\ta b", f"{half}\t<s> a", "\\end\\", ""]
    path = tmp_path_factory.getbasetemp() / "normal.arpa"
    path.write_text("\n".join(text), encoding="utf-8")
    lm = NgramLm.read_arpa(path)
    context = lm.start()
    for word in sentence:
        total = sum(math.exp(lm.score(context, other)[1]) for other in words)
        assert total == pytest.approx(1.0, abs=1e-6)
        context, _ = lm.score(context, word)


def boost(booster: HotwordBooster, tokens: list[int]) -> float:
    state, total = booster.start(), 0.0
    for token in tokens:
        state, score = booster.step(state, token)
        total += score
    return total + booster.finish(state)


@pytest.mark.parametrize(
    ("phrases", "tokens", "expected"),
    [
        ([[1, 2]], [3, 1, 2, 3], 2),
        ([[1, 2]], [1, 3, 1], 0),  # broken off, and cut off by the end
        ([[1, 2]], [1, 1, 2], 2),  # a false start falls back to its suffix
        ([[1, 2], [1, 2, 3]], [1, 2, 3], 3),
        ([[1, 2], [1, 2, 3, 4]], [1, 2, 3, 5], 2),  # the short phrase keeps its bonus
        ([[1, 2, 3, 4], [2, 3]], [1, 2, 3, 5], 2),  # a phrase inside a broken one
        ([[1, 2, 3, 4], [2, 3]], [1, 2, 3], 2),
        ([[1]], [1, 1, 3, 1], 3),
    ],
)
def test_hotword_bonus_by_hand(phrases, tokens, expected):
    assert boost(HotwordBooster(phrases, 1.5), tokens) == pytest.approx(1.5 * expected)


TOKENS = st.integers(0, 2)


@given(st.lists(TOKENS, max_size=10), st.lists(st.lists(TOKENS, min_size=1, max_size=4), max_size=4))
def test_hotword_bonus_counts_the_tokens_that_phrases_cover(tokens, phrases):
    covered = {
        i + j
        for phrase in phrases
        for i in range(len(tokens))
        for j in range(len(phrase))
        if tokens[i : i + len(phrase)] == phrase
    }
    assert boost(HotwordBooster(phrases, 1.0), tokens) == pytest.approx(len(covered))


def test_phrases_end_at_word_ends():
    pieces = ("<blank>", "▁cat", "s", "▁dog", "<eng>")
    booster = HotwordBooster([[1]], 1.0, pieces=pieces)
    assert [boost(booster, tokens) for tokens in ([1], [1, 3], [1, 4], [1, 2], [1, 2, 3], [3, 1])] == [1, 1, 1, 0, 0, 1]


def test_hotwords_are_checked():
    with pytest.raises(ConfigError, match="at least one token"):
        HotwordBooster([[]], 1.0)
    with pytest.raises(ConfigError, match="finite"):
        HotwordBooster([[1]], math.inf)
    with pytest.raises(ConfigError, match="at least 0"):
        HotwordBooster([[1]], -1.0)


# Byte-level pieces, of which some are parts of a character.

SPELLINGS = [make([]), make(MERGES[:-1]), make(MERGES), make(MERGES).cut(["the cat", "the cat"], min_count=2)]
WORDS = ("<s>", "</s>", "<unk>", "the", "cat", "naïve", "OK", "你", "好", "it's")
WORD_LM = NgramLm(
    {word: number for number, word in enumerate(WORDS)},
    {
        **{(number,): (-1.0 - 0.1 * number, -0.05 * number) for number in range(len(WORDS))},
        **{(0, 3): (-0.3, 0.0), (3, 4): (-0.4, 0.0), (7, 8): (-0.2, 0.0), (8, 7): (-0.25, 0.0)},
    },
    order=2,
)


def word_score(tokenizer: BytePairTokenizer, text: str) -> float:
    lm = WordNgram(WORD_LM, tokenizer.word_pieces)
    state, total = lm.start(), 0.0
    for token in tokenizer.encode(text):
        state, score = lm.step(state, token)
        assert score <= lm.max_step
        total += score
    return total + lm.finish(state)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("the cat", ["the", "cat"]),
        ("The CAT, naïve.", ["the", "cat", "naïve"]),
        ("ok It’s - the", ["OK", "it's", "the"]),
        ("dog-cat", ["<unk>", "cat"]),
        ("你好", ["你", "好"]),
        ("你好，你the好cat。", ["你", "好", "你", "the", "好", "cat"]),
        ("，", []),
        ("", []),
    ],
)
def test_words_are_scored_however_they_are_spelled(text, words):
    for tokenizer in SPELLINGS:
        assert word_score(tokenizer, text) == pytest.approx(sentence_log_prob(WORD_LM, words)), tokenizer.vocab_size


def test_words_are_rewarded_by_their_frequency_and_what_is_none_costs():
    frequencies = {"the": -3.0, "cat": -11.0, "l": -5.0, "homme": -9.0, "it's": -6.0}
    bonus, unknown = WordRewards.BONUS, WordRewards.UNKNOWN
    rewards = WordRewards(frequencies)
    assert unknown + bonus < -10
    expected = {
        "The cat.": 2 * bonus - 14.0,
        "l'homme": 2 * bonus - 14.0,
        "it's": bonus - 6.0,
        "it's'": bonus - 6.0,
        "l'chat": bonus + unknown,
        "xyz the": 2 * bonus + unknown - 3.0,
        ", -": 0.0,
    }
    for tokenizer in SPELLINGS:
        scorer = WordNgram(rewards, tokenizer.word_pieces)
        for text, score in expected.items():
            state, total = scorer.start(), 0.0
            for token in tokenizer.encode(text):
                state, gain = scorer.step(state, token)
                assert gain <= scorer.max_step
                total += gain
            assert total + scorer.finish(state) == pytest.approx(score), text
    assert WordRewards({}).max_step >= 0


def test_a_word_that_is_known_as_it_is_written_is_not_changed():
    lm = NgramLm({"The": 0, "the": 1, ",": 2}, {(0,): (-1.0, 0.0), (1,): (-2.0, 0.0), (2,): (-4.0, 0.0)}, order=1)
    scores = []
    for text in ("The the", "THE", "the ,"):
        scorer = WordNgram(lm, SPELLINGS[0].word_pieces)
        state, total = scorer.start(), 0.0
        for token in SPELLINGS[0].encode(text):
            state, score = scorer.step(state, token)
            total += score
        scores.append(total + scorer.finish(state))
    assert scores == [-3.0, -2.0, -6.0]


@pytest.mark.parametrize(
    ("phrase", "text", "found"),
    [
        ("cat", "the cat", 1),
        ("cat", "the cat the cat, cat", 3),
        ("cat", "the cat.", 1),
        ("cat", "a cat» cat， cat。", 3),
        ("cat", "the cats, cathode, scat cat's cat’s caté", 0),
        ("the cat", "the cat the", 1),
        ("naïve", "the naïve cat", 1),
        ("naïve", "the naïves", 0),
        ("你好", "你好", 1),
        ("你好", "the 你好", 1),
        ("好", "你好你好，好", 3),
        ("你好", "好你好吗", 1),
        ("你好", "你好cat", 1),
        ("你好", "你坏", 0),
    ],
)
def test_hotwords_are_found_however_they_are_spelled(phrase, text, found):
    for tokenizer in SPELLINGS:
        tokens = tokenizer.encode(phrase)
        booster = HotwordBooster([tokens], 1.5, pieces=tokenizer.word_pieces)
        assert boost(booster, tokenizer.encode(text)) == pytest.approx(1.5 * found * len(tokens)), tokenizer.vocab_size
