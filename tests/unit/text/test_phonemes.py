"""English as phonemes: the words of the dictionary and beyond it, weak forms, spans of words, and any string at all."""

import time
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from speechnar.errors import DataError
from speechnar.text.lexicon import add_ed, add_ing, add_s, english, phonemes_of, with_stress
from speechnar.text.phonemes import PIECES, PhonemeTokenizer, encode_words
from speechnar.text.spoken import MARKS, spell_out
from speechnar.text.tokenizer import CharTokenizer, SentencePieceTokenizer, load_tokenizer

english()  # read once, before anything is timed
TOKENIZER = PhonemeTokenizer()
texts = st.text(max_size=50) | st.text(st.sampled_from("aAtheI $5,.?'-1kmBé🎉 \n"), max_size=50)


def shown(text):
    return " ".join(TOKENIZER.piece_of(i) for i in TOKENIZER.encode(text))


def said(text):
    return TOKENIZER.decode(TOKENIZER.encode(text)).replace(" ", "")


def test_a_sentence_begins_and_ends_with_silence_and_has_no_spaces():
    assert shown("Hi, Bob.") == "^ h ˈI , b ˈɑ b . $"
    assert TOKENIZER.decode(TOKENIZER.encode("Hi, Bob.")) == "h ˈI b ˈɑ b"


def test_pieces_are_few_and_every_entry_of_the_dictionary_is_made_of_them():
    assert len(PIECES) < 120 and len(set(PIECES)) == len(PIECES)
    lexicon = english()
    pronunciations = {*lexicon.entries.values(), *lexicon.final.values()}
    assert len(lexicon.entries) > 150_000
    assert "".join(phonemes_of(" ".join(pronunciations))) == "".join(pronunciations)
    assert set(phonemes_of(" ".join(pronunciations))) <= set(PIECES)


@given(texts)
@settings(deadline=None)
def test_any_text_encodes_between_the_edges_or_not_at_all(text):
    ids = TOKENIZER.encode(text)
    pieces = [TOKENIZER.piece_of(i) for i in ids]
    if spell_out(text):
        assert pieces[0] == "^" and pieces[-1] == "$" and len(pieces) > 2
        assert not {"^", "$"} & set(pieces[1:-1]) and not any(TOKENIZER.is_special(i) for i in ids)
    else:
        assert ids == []


@given(texts)
@settings(deadline=None)
def test_the_spans_of_the_words_make_up_the_text(text):
    ids, words = TOKENIZER.encode(text), TOKENIZER.encode_words(text)
    assert [word.text for word in words] == text.split()
    spoken = [i for word in words for i in ids[word.start : word.end]]
    assert spoken == ids[1:-1]
    assert all(word.start <= word.end for word in words)


def test_a_word_has_its_sounds_its_pause_and_its_figures():
    text = "He paid $3 million, 🎉 ok?"
    ids = TOKENIZER.encode(text)
    spans = [TOKENIZER.spell(ids[word.start : word.end]) for word in TOKENIZER.encode_words(text)]
    assert ["".join(span).replace("▁", "") for span in spans] == [
        *("hi", "pˈAd", "θɹˈi", "mˈɪljᵊndˈɑləɹz,", "", "ˌOkˈA?"),
    ]


@given(texts)
@settings(deadline=None)
def test_spelling_out_first_changes_nothing(text):
    assert TOKENIZER.encode(spell_out(text)) == TOKENIZER.encode(text)


@pytest.mark.parametrize(
    ("text", "phonemes"),
    [
        ("Polish the Polish shoes", "pˈɑlɪʃðəpˈOlɪʃʃˈuz"),
        ("the apple, the pear", "ðiˈæpᵊlðəpˈɛɹ"),
        ("to eat to go to", "tuˈittəɡˌOtu"),
        ("a vitamin A", "əvˈIɾəmənˈA"),
        ("I would if I could", "ˌIwʊdɪfˌIkˈʊd"),
        ("I used to. He used two", "ˌIjˈusttuhijˈuzdtˈu"),
        ("THE CAT", "ðəkˈæt"),
        ("U.S.A.", "jˌuˌɛsˈA"),
        ("the BBC's", "ðəbˌibˌisˈiz"),
        ("openStreetMap", "ˈOpᵊnstɹˈitmˈæp"),
        ("well-looking court-yard", "wˈɛllˈʊkɪŋkˈɔɹtjˈɑɹd"),
    ],
)
def test_words_in_context(text, phonemes):
    assert said(text) == phonemes


@pytest.mark.parametrize(
    ("word", "phonemes"),
    [
        *(("cat's", "kˈæts"), ("dog's", "dˈɔɡz"), ("church's", "ʧˈɜɹʧᵻz"), ("felons'", "fˈɛlənz")),
        *(("oatens", "ˈOʔnz"), ("oatened", "ˈOʔnd"), ("enzoning", "ɛnzˈOnɪŋ"), ("Oatenning", "ˈOʔnɪŋ")),
        *(("'tis", "tˈɪz"), ("o'clock", "əklˈɑk"), ("twenty-first", "twˈɛntifˈɜɹst"), ("A-list", "ˈAlˌɪst")),
        *(("NASA", "nˈæsə"), ("nasa", "nˈæsə"), ("paris", "pˈɛɹəs"), ("bass", "bˈæs")),
    ],
)
def test_words_the_dictionary_has_or_derives(word, phonemes):
    assert english().lookup(word) == phonemes


def test_endings_follow_the_last_sound():
    assert [add_s(stem) for stem in ("kˈæt", "dˈɔɡ", "bˈʌz")] == ["kˈæts", "dˈɔɡz", "bˈʌzᵻz"]
    assert [add_ed(stem) for stem in ("stˈɑp", "bˈɛɡ", "nˈid", "wˈAt", "tˈɛst")] == [
        *("stˈɑpt", "bˈɛɡd", "nˈidᵻd", "wˈAɾᵻd", "tˈɛstᵻd"),
    ]
    assert [add_ing(stem) for stem in ("wˈAt", "tˈɛst")] == ["wˈAɾɪŋ", "tˈɛstɪŋ"]


def test_a_word_without_stress_gets_one_on_its_first_vowel():
    assert with_stress("ʧɪswɪk") == "ʧˈɪswɪk"
    assert with_stress("əlˈOn") == "əlˈOn" and with_stress("ps") == "ps"


def test_words_of_no_dictionary_are_read_by_the_network():
    assert english().lookup("Blorkel") is None
    assert said("Blorkel's blorkel-cat") == "blˈɔɹkᵊlzblˈɔɹkᵊlkˈæt"


def test_unknown_words_are_pronounced_by_their_parts():
    lexicon = english()
    asked = []

    def guess(word):
        asked.append(word)
        return "blˈɑ"

    assert lexicon.lookup("Blorkel's") is None and "Blorkel" not in lexicon
    assert lexicon.pronounce("Blorkel's", guess) == "blˈɑz"
    assert lexicon.pronounce("Blorkel-cat", guess) == "blˈɑkˈæt"
    assert lexicon.pronounce("cat", guess) == "kˈæt"
    assert asked == ["Blorkel", "Blorkel"]


def test_saved_and_loaded_it_is_the_same(tmp_path):
    TOKENIZER.save(tmp_path)
    loaded = load_tokenizer(tmp_path)
    assert isinstance(loaded, PhonemeTokenizer) and loaded.pieces == PIECES
    assert (tmp_path / "tokens.txt").read_text(encoding="utf-8").split("\n")[:4] == [
        *("<blank>", "<unk>", "<phonemes-eng>", "^"),
    ]


def test_a_list_of_pieces_without_the_silences_is_refused(tmp_path):
    (tmp_path / "tokens.txt").write_text("".join(f"{piece}\n" for piece in PIECES if piece != "$"), encoding="utf-8")
    with pytest.raises(DataError, match=r"needs the piece '\$'"):
        load_tokenizer(tmp_path)


def test_what_a_text_lacks_is_said_by_what_is_like_it():
    few = PhonemeTokenizer.of(["Seven.", "Nine, ten."])
    assert few.pieces == (*PIECES[:5], ",", ".", "n", "s", "t", "v", "ˈI", "ə", "ˈɛ")

    def spelled(text):
        return " ".join(few.piece_of(token) for token in few.encode(text))

    assert spelled("Seven!") == spelled("Seven.") != spelled("Seven")
    assert spelled("Seven; ten") == spelled("Seven, ten")
    assert spelled("bed") == "^ <unk> ˈɛ <unk> $"
    assert spelled("nine a tent") == "^ n ˈI n ə t ˈɛ n t $"
    assert few.encode_words("Ten— bed")[0].end == few.encode_words("Ten, bed")[0].end == 5


def test_marks_are_nothing_to_a_tokenizer_that_has_none():
    few = PhonemeTokenizer.of(["seven", "nine"])
    assert few.encode("Seven, nine?") == few.encode("seven nine")
    with pytest.raises(DataError, match="needs text with words"):
        PhonemeTokenizer.of(["...", ""])


@pytest.mark.parametrize(
    "tokenizer",
    [
        CharTokenizer(["<blank>", "<unk>", "▁", *"abcdefghijklmnopqrstuvwxyz"]),
        SentencePieceTokenizer.train(["good day", "a lazy dog", "what a day"] * 5, 30),
    ],
)
def test_other_tokenizers_have_spans_too(tokenizer):
    text = " a good  day, dog"
    ids, words = tokenizer.encode(text), encode_words(tokenizer, text)
    assert [word.text for word in words] == ["a", "good", "day,", "dog"]
    assert words[0].start == 0 and words[-1].end == len(ids)
    assert all(before.end == after.start for before, after in pairwise(words))
    assert tokenizer.decode(ids[words[1].start : words[1].end]) == "good"
    assert encode_words(tokenizer, "") == []
    assert encode_words(TOKENIZER, "good day") == TOKENIZER.encode_words("good day")


def test_a_text_that_the_tokenizer_cuts_elsewhere_has_no_spans():
    with pytest.raises(DataError, match="2 of the 1 words"):
        encode_words(CharTokenizer(["<blank>", "<unk>", "▁", "a"]), "a▁a")


def test_ten_thousand_characters_take_well_under_a_second():
    text = ("The quick brown fox paid $5.20 at 10:30 a.m., didn't he? " * 200)[:10_000]
    start = time.process_time()
    ids = TOKENIZER.encode(text)
    assert time.process_time() - start < 1
    assert len(ids) > 5000 and MARKS[0] in TOKENIZER.pieces
