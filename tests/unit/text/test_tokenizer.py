"""Tokenizers: layout of the id space, specials, round trips, and what loading refuses."""

import json
import logging
from pathlib import Path

import pytest
import sentencepiece
from hypothesis import given
from hypothesis import strategies as st

from speechnar.errors import ConfigError, DataError
from speechnar.text.tokenizer import (
    MAX_FILE_BYTES,
    MAX_PIECES,
    MAX_SPECIALS,
    SENTENCE_PIECES,
    CharTokenizer,
    LexiconTokenizer,
    SentencePieceTokenizer,
    load_tokenizer,
    model_pieces,
    task_specials,
)

SENTENCES_PATH = Path(__file__).parents[2] / "reference" / "golden" / "sentences.json"
TEXTS = ["good day", "hello world it's a good day", "the quick brown fox", "jumps over the lazy dog", "", "  "] * 3
LETTERS = "abcdefghijklmnopqrstuvwxyz' "
SPECIALS = task_specials(["eng", "deu"], ["deu"])
CHAR_PIECES = ["<blank>", "<unk>", "<eng>", "<asr>", "▁", *LETTERS.replace(" ", ""), "<sop>", "<sos>", "<eos>"]

plain_texts = st.text(LETTERS, max_size=40)
trained = {kind: SentencePieceTokenizer.train(TEXTS, 80, SPECIALS, kind) for kind in ("unigram", "bpe", "char")}
all_tokenizers = [*trained.values(), CharTokenizer(CHAR_PIECES)]
each_tokenizer = pytest.mark.parametrize("tokenizer", all_tokenizers, ids=[*trained, "CharTokenizer"])


def shown(tokenizer, text):
    return [tokenizer.piece_of(i) for i in tokenizer.encode(text)]


@each_tokenizer
@given(text=plain_texts)
def test_round_trip_of_covered_text_squeezes_spaces_only(tokenizer, text):
    assert tokenizer.decode(tokenizer.encode(text)) == " ".join(text.split())


@each_tokenizer
@given(text=st.text(max_size=30))
def test_any_text_encodes_to_valid_ids(tokenizer, text):
    ids = tokenizer.encode(text)
    assert all(0 <= i < tokenizer.vocab_size for i in ids)
    assert not {tokenizer.blank_id, *(tokenizer.id_of(p) for p in ("<sop>", "<sos>", "<eos>"))} & set(ids)
    tokenizer.decode(ids)


@each_tokenizer
def test_specials_become_their_ids_without_an_empty_piece(tokenizer):
    for text in ("<eng><asr> good day", "<eng> <asr> good day", " <eng><asr>good day"):
        assert tokenizer.encode(text) == [
            tokenizer.id_of("<eng>"),
            tokenizer.id_of("<asr>"),
            *tokenizer.encode("good day"),
        ]
    assert shown(tokenizer, "<eng>") == ["<eng>"]
    assert tokenizer.decode(tokenizer.encode("<eng><asr> good day")) == "good day"
    assert tokenizer.encode("") == tokenizer.encode(" \n\t") == []


@pytest.mark.parametrize("kind", trained)
def test_matches_sentencepiece_on_the_whole_string_less_its_first_piece(kind, tmp_path):
    """OWSM tokenises ``<lang><task> text`` whole and drops the leading empty piece."""
    trained[kind].save(tmp_path)
    reference = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "tokenizer.model"))
    for text in ("<eng><asr> good day", "<deu><st_deu> the lazy fox jumps", "<na>"):
        assert shown(trained[kind], text) == reference.encode(text, out_type=str)[1:]


@each_tokenizer
def test_text_that_spells_a_control_piece_is_text(tokenizer):
    ids = tokenizer.encode("a <blank> <eos> <unk> b")
    assert tokenizer.blank_id not in ids and tokenizer.id_of("<eos>") not in ids
    assert tokenizer.decode(ids) == "a ⁇blank⁇ ⁇eos⁇ ⁇unk⁇ b"


@pytest.mark.parametrize("text", ["a \udcff b", "\ud800", "x\udfff"])
@each_tokenizer
def test_text_that_is_no_unicode_is_refused(tokenizer, text):
    with pytest.raises(DataError, match="text must be UTF-8"):
        tokenizer.encode(text)


@given(st.text(alphabet="<blankBLANKuseopSOP/> @▁Ġ", max_size=30))
def test_no_spelling_gives_a_control_piece(text):
    lexicon = LexiconTokenizer(
        ("<blank>", "<unk>", "<eng>", "a", *SENTENCE_PIECES), {"a": ("<blank>",), "k": ("<eos>",), "<sop>": ("<sos>",)}
    )
    for tokenizer in (*all_tokenizers, lexicon):
        control = {
            tokenizer.id_of(piece) for piece in ("<blank>", "<sop>", "<sos>", "<eos>") if piece in tokenizer.pieces
        }
        assert not control.intersection(tokenizer.encode(text))
        assert not control.intersection(tokenizer.encode(f"{text} <BLANK> <Blank> <EOS>"))


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (
            "<blank>\n<unk>\n" + "".join(f"<{n}>\n" for n in range(MAX_SPECIALS)),
            "8,192 of them specials; got 8,194 and",
        ),
        ("<blank>\n<unk>\n" + "\n".join(map(str, range(MAX_PIECES))), "at most 1,048,576 pieces"),
        ("<blank>\n<unk>\n" + "x" * MAX_FILE_BYTES, "must hold at most 67,108,864 bytes"),
        ("<blank>\n<unk>\n" + "x" * 10_000, "single characters"),
    ],
    ids=["specials", "pieces", "bytes", "line"],
)
def test_a_list_of_any_size_is_bounded(tmp_path, content, says):
    (tmp_path / "tokens.txt").write_text(content)
    with pytest.raises(DataError, match=says) as caught:
        load_tokenizer(tmp_path)
    assert len(str(caught.value)) < 500


@each_tokenizer
def test_ids(tokenizer):
    assert tokenizer.pieces[:2] == ("<blank>", "<unk>") and tokenizer.pieces[-3:] == ("<sop>", "<sos>", "<eos>")
    assert (tokenizer.blank_id, tokenizer.unk_id, tokenizer.pad_id) == (0, 1, 0)
    assert tokenizer.vocab_size == len(tokenizer.pieces) == len(set(tokenizer.pieces))
    assert all(tokenizer.id_of(piece) == i for i, piece in enumerate(tokenizer.pieces))
    assert tokenizer.is_special(tokenizer.id_of("<asr>")) and not tokenizer.is_special(tokenizer.id_of("a"))
    assert tokenizer.language_ids()["eng"] == tokenizer.id_of("<eng>")
    assert set(tokenizer.language_ids()) <= {"eng", "deu"}  # not asr, unk, sos ...


@each_tokenizer
def test_ids_and_pieces_out_of_range_raise(tokenizer):
    for bad in (-1, tokenizer.vocab_size):
        for method in (tokenizer.piece_of, tokenizer.is_special, lambda i: tokenizer.decode([i])):
            with pytest.raises(DataError, match="must lie in"):
                method(bad)
    with pytest.raises(DataError, match="'<fra>' is not among"):
        tokenizer.id_of("<fra>")


@each_tokenizer
def test_decode_drops_specials_and_shows_unknown(tokenizer):
    ids = [tokenizer.id_of("<eng>"), 0, *tokenizer.encode("day"), 1, tokenizer.id_of("<eos>")]
    assert tokenizer.decode(ids) == "day⁇"


@each_tokenizer
def test_save_and_load_give_the_same_tokenizer(tokenizer, tmp_path):
    tokenizer.save(tmp_path / "new" / "folder")
    loaded = load_tokenizer(tmp_path / "new" / "folder")
    assert type(loaded) is type(tokenizer) and loaded.pieces == tokenizer.pieces
    assert loaded.encode("<eng> lazy dog") == tokenizer.encode("<eng> lazy dog")


@pytest.mark.parametrize("kind", trained)
def test_training_is_deterministic_and_covers_every_character(kind, tmp_path):
    texts = [*TEXTS, "žluťoučký kůň 日本", "x" * 9000 + "ß"]  # SentencePiece by default drops lines over 4192 bytes
    for name in ("one", "two"):
        SentencePieceTokenizer.train(iter(texts), 90, SPECIALS, kind).save(tmp_path / name)
    for file in ("tokenizer.model", "tokens.txt"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()
    tokenizer = load_tokenizer(tmp_path / "one")
    assert tokenizer.unk_id not in tokenizer.encode("日本 žluťoučký ß")


def test_vocab_size_counts_every_id():
    assert trained["bpe"].vocab_size == 80


def test_a_corpus_too_small_for_the_vocabulary_gives_fewer_ids_and_a_warning(caplog):
    with caplog.at_level(logging.WARNING):
        tokenizer = SentencePieceTokenizer.train(["a b", "b a"], 500)
    assert tokenizer.vocab_size < 500
    assert f"fills {tokenizer.vocab_size} of the 500" in caplog.text
    assert tokenizer.decode(tokenizer.encode("b a b")) == "b a b"


def test_training_refuses_what_cannot_work():
    with pytest.raises(ConfigError, match="vocab_size must be about"):
        SentencePieceTokenizer.train(TEXTS, 12)
    with pytest.raises(DataError, match="at least one sentence"):
        SentencePieceTokenizer.train(["", "  "], 50)
    for specials in (["eng"], ["<blank>"], ["< a>"]):
        with pytest.raises(ConfigError, match=r"must be written <\.\.\.>"):
            SentencePieceTokenizer.train(TEXTS, 80, specials)
    with pytest.raises(ConfigError, match="differ"):
        SentencePieceTokenizer.train(TEXTS, 80, ["<a>", "<a>"])
    with pytest.raises(ConfigError, match="model_type"):
        SentencePieceTokenizer.train(TEXTS, 80, model_type="word")


def test_a_foreign_piece_list_sets_the_ids(tmp_path, caplog):
    trained["bpe"].save(tmp_path)
    model = (tmp_path / "tokenizer.model").read_bytes()
    body = [piece for piece in trained["bpe"].pieces if piece not in ("<blank>", "<unk>", "<sop>", "<sos>", "<eos>")]
    assert model_pieces(model)[0] == "<unk>"
    assert set(model_pieces(model)) - {"<unk>"} == set(body)
    renumbered = SentencePieceTokenizer(model, ["<sos>", "<unk>", *reversed(body), "<blank>"])
    assert renumbered.blank_id == renumbered.vocab_size - 1
    assert shown(renumbered, "<eng> good dog") == shown(trained["bpe"], "<eng> good dog")
    assert not caplog.records
    without = SentencePieceTokenizer(model, ["<blank>", "<unk>", *(piece for piece in body if piece != "▁good")])
    assert "1 pieces of the SentencePiece model are not listed (first: '▁good')" in caplog.text
    assert without.encode("good") == [without.unk_id]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda lines: [*lines, "zebra"], r"tokens.txt:81: piece 'zebra' is unknown"),
        (
            lambda lines: [*lines[:9], lines[4], *lines[10:]],
            r"tokens.txt:10: piece '<nolang>' already stands on line 5",
        ),
        (lambda lines: lines[1:], r"holds <blank>"),
        (lambda lines: [lines[0], *lines[2:]], r"holds <unk>"),
        (lambda lines: [*lines[:6], "", *lines[6:]], r"tokens.txt:7: a piece must not be empty"),
        (lambda lines: [], r"tokens.txt:1: a piece must not be empty"),
    ],
)
def test_loading_names_the_wrong_line(tmp_path, change, message):
    trained["bpe"].save(tmp_path)
    path = tmp_path / "tokens.txt"
    path.write_text("".join(f"{line}\n" for line in change(path.read_text().splitlines())), encoding="utf-8")
    with pytest.raises(DataError, match=message):
        load_tokenizer(tmp_path)


def test_loading_refuses_missing_and_damaged_files(tmp_path):
    with pytest.raises(DataError, match=r"tokens.txt: cannot be read .*; a tokenizer folder needs tokens.txt"):
        load_tokenizer(tmp_path)
    (tmp_path / "tokens.txt").write_bytes(b"<blank>\n<unk>\n\xff\n")
    with pytest.raises(DataError, match=r"tokens.txt:3: must be UTF-8"):
        load_tokenizer(tmp_path)
    (tmp_path / "tokens.txt").write_text("<blank>\n<unk>\nhello\n")
    with pytest.raises(DataError, match=r"tokens.txt:3: a character tokenizer's pieces .* add tokenizer.model"):
        load_tokenizer(tmp_path)
    for content in (b"", b"not a model"):
        (tmp_path / "tokenizer.model").write_bytes(content)
        with pytest.raises(DataError, match="must be a SentencePiece model"):
            load_tokenizer(tmp_path)
    with pytest.raises(DataError, match="cannot be read"):
        SentencePieceTokenizer(tmp_path / "absent.model", ["<blank>", "<unk>"])


def test_a_model_whose_pieces_are_no_text_is_refused(tmp_path):
    trained["bpe"].save(tmp_path)
    path = tmp_path / "tokenizer.model"
    path.write_bytes(path.read_bytes().replace("\u2581".encode(), b"\xe2\x28\xa1"))
    with pytest.raises(DataError, match="a piece must be UTF-8"):
        load_tokenizer(tmp_path)


def test_only_newline_ends_a_line(tmp_path):
    (tmp_path / "tokens.txt").write_text("<blank>\n<unk>\n<a\u200b>\na\u2028b\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"tokens.txt:4: .*got 'a\\u2028b'"):
        load_tokenizer(tmp_path)


def test_task_specials_in_order():
    assert task_specials(["eng"], ["deu"]) == ("<na>", "<nospeech>", "<nolang>", "<eng>", "<asr>", "<st_deu>")


LEXICON_PIECES = ("<blank>", "<sos>", "<eos>", "你", "好", "hel@@", "lo", "world", "a", "b", "2", "don't", "<unk>")
LEXICON = {"hello": ("hel@@", "lo"), "one": ("1",), "好": ("好",)}


@pytest.fixture
def lexicon_tokenizer():
    return LexiconTokenizer(LEXICON_PIECES, LEXICON)


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("你好", ["你", "好"]),
        ("你 好", ["你", "好"]),
        ("Hello WORLD", ["hel@@", "lo", "world"]),
        ("你hello好", ["你", "hel@@", "lo", "好"]),
        ("ab b", ["a", "b", "b"]),
        ("one 您", ["<unk>", "<unk>"]),
        ("2 don't", ["2", "don't"]),
        ("  ", []),
    ],
)
def test_lexicon_spells_words(lexicon_tokenizer, text, pieces):
    assert [lexicon_tokenizer.piece_of(i) for i in lexicon_tokenizer.encode(text)] == pieces


@pytest.mark.parametrize(
    ("pieces", "text"),
    [
        (["你", "好"], "你好"),
        (["hel@@", "lo", "world", "你", "2", "world"], "hello world你2world"),
        (["hel@@", "好"], "hel好"),
        (["<eos>", "a", "<unk>", "don't", "hel@@"], "a ⁇don't hel"),
        ([], ""),
    ],
)
def test_lexicon_joins_pieces(lexicon_tokenizer, pieces, text):
    assert lexicon_tokenizer.decode(lexicon_tokenizer.id_of(piece) for piece in pieces) == text


def test_lexicon_writes_what_funasr_writes():
    """Hundreds of lists of pieces; where FunASR moves or loses one, ours keeps it in its place."""
    rows = json.loads(SENTENCES_PATH.read_text(encoding="utf-8"))
    known = sorted({piece for row in rows for piece in row["pieces"] if not piece.startswith("<")})
    tokenizer = LexiconTokenizer(("<blank>", *known, "<unk>"), {})
    for row in rows:
        pieces = [piece for piece in row["pieces"] if not piece.startswith("<")]  # FunASR drops the unknown; we show it
        ids = [tokenizer.id_of(piece) for piece in pieces]
        text, words = tokenizer.decode(ids), "".join(tokenizer.spell(ids)).split("▁")[1:]
        if row["whole"]:
            assert (text, words) == (row["text"], row["words"])
        said = "".join(piece.removesuffix("@@") for piece in pieces).casefold()
        assert text.replace(" ", "").casefold() == "".join(words).casefold() == said
    assert sum(row["whole"] for row in rows) > 200


def test_lexicon_marks_where_words_begin(lexicon_tokenizer, tmp_path):
    lexicon_tokenizer.save(tmp_path)
    loaded = load_tokenizer(tmp_path)
    ids = [loaded.id_of(piece) for piece in ("你", "hel@@", "lo", "<unk>", "好")]
    assert loaded.spell(ids) == loaded.spell(ids, unspaced=True) == ["▁你", "▁hel", "lo", "<unk>", "▁好"]
    assert loaded.encode("Hello one") == lexicon_tokenizer.encode("Hello one")


def test_every_token_is_a_word_where_text_has_no_spaces():
    tokenizer = CharTokenizer(("<blank>", "<unk>", "▁", "a"))
    assert tokenizer.spell([3, 2, 0], unspaced=True) == ["▁a", "▁", "<blank>"]
    assert tokenizer.spell([3, 2, 0]) == ["a", "▁", "<blank>"]
