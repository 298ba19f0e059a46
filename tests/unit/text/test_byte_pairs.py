"""Byte-level pieces: merging, cutting a vocabulary, and bytes that are not characters yet."""

import json

import pytest

from speechnar.errors import DataError
from speechnar.text.byte_pairs import BYTE_LETTERS, BytePairTokenizer, read_merges
from speechnar.text.tokenizer import BLANK, SENTENCE_PIECES, UNK, assemble_characters, load_tokenizer

MERGES = [("t", "h"), ("Ġ", "th"), ("Ġth", "e"), ("Ġ", "c"), ("a", "t"), ("Ġc", "at"), ("ä", "½"), ("ä½", "ł")]
TEXT = "the cat, the 'Cat's hat: 25 naïve ½ 你好 you"


def make(merges=MERGES, specials=("<eng>", "<asr>")) -> BytePairTokenizer:
    made = dict.fromkeys("".join(pair) for pair in merges)
    return BytePairTokenizer([BLANK, UNK, *specials, *BYTE_LETTERS.values(), *made, *SENTENCE_PIECES], merges)


def pieces(tokenizer, text):
    return [tokenizer.piece_of(token_id) for token_id in tokenizer.encode(text)]


def test_pairs_are_merged_in_the_order_of_the_list():
    assert pieces(make(), "the cat") == ["Ġthe", "Ġcat"]
    assert pieces(make(), "that") == ["Ġth", "at"]  # "th" comes before "at"
    assert pieces(make(MERGES[4:]), "that") == ["Ġ", "t", "h", "at"]


def test_a_sentence_begins_as_a_word_but_not_in_writing_without_spaces():
    assert pieces(make(), "  cat \n") == ["Ġcat"]
    assert pieces(make(), "你") == ["ä½ł"]
    assert make().encode(" \t") == []


@pytest.mark.parametrize("text", [TEXT, "你好，世界", "Он сказал: «да»!", "x" * 50, "🙂 a"])
def test_any_text_can_be_spelled_and_read_back(text):
    for tokenizer in (make(), make([])):
        ids = tokenizer.encode(text)
        assert tokenizer.decode(ids) == text
        assert UNK not in pieces(tokenizer, text)


def test_specials_are_spelled_as_such_and_not_shown():
    tokenizer = make()
    assert pieces(tokenizer, "<eng><asr> the cat") == ["<eng>", "<asr>", "Ġthe", "Ġcat"]
    assert tokenizer.decode(tokenizer.encode("<eng><asr> the cat")) == "the cat"
    assert tokenizer.language_ids() == {"eng": tokenizer.id_of("<eng>")}


def test_words_and_characters_of_several_pieces_are_told():
    tokenizer = make(MERGES[:-2])
    ids = tokenizer.encode("<eng> the hat é")
    assert tokenizer.spell(ids) == ["<eng>", "▁the", "▁", "h", "at", "▁", "é", ""]
    chinese = tokenizer.encode("你好")
    assert tokenizer.spell(chinese, unspaced=True) == ["▁你", "", "", "▁好", "", ""]
    assert tokenizer.spell(chinese) == ["你", "", "", "好", "", ""]


def test_text_without_spaces_falls_into_words_of_its_scripts():
    tokenizer = make()
    ids = tokenizer.encode("你，that25好 cat。")
    spelled = tokenizer.spell(ids, unspaced=True)
    assert [piece for piece in spelled if piece] == ["▁你", "，", "▁th", "at", "2", "5", "▁好", "▁cat", "。"]


def test_a_character_may_share_its_pieces_with_others():
    tokenizer = make([("a", "ä"), ("½", "ł"), ("½ł", "b")])  # "a" and the first byte of "你", the others and "b"
    ids = [tokenizer.id_of(piece) for piece in ("c", "aä", "½łb", "c")]
    assert tokenizer.decode(ids) == "ca你bc"
    assert tokenizer.spell(ids) == ["c", "a你", "b", "c"]
    assert tokenizer.spell(ids, unspaced=True) == ["▁c", "a你", "▁b", "c"]


def test_pieces_add_up_to_words():
    tokenizer = make(MERGES[:-2])
    shown = dict(zip(tokenizer.pieces, tokenizer.word_pieces, strict=True))
    assert [shown[piece] for piece in ("Ġthe", "Ġ", "at", "<eng>", "<unk>")] == ["▁the", "▁", "at", "<eng>", "<unk>"]
    assert shown["ä"] == "\udce4"
    for text in ("the naïve cat, 你好", "🙂 a"):
        joined = "".join(tokenizer.word_pieces[token_id] for token_id in tokenizer.encode(text))
        assert assemble_characters(joined) == f"▁{text.replace(' ', '▁')}"
    half = "".join(tokenizer.word_pieces[token_id] for token_id in tokenizer.encode("你")[:2])
    assert assemble_characters(half) == half == "\udce4\udcbd"


@pytest.mark.parametrize("merges", [[], MERGES[:-1], MERGES])
def test_no_beginning_of_a_text_ends_in_half_a_character(merges):
    tokenizer = make(merges)
    text = "the cat é, 你好 🙂 2"
    ids = tokenizer.encode(f"<eng> {text}")
    seen = []
    for end in range(len(ids) + 1):
        kept = tokenizer.drop_unfinished(ids[:end])
        assert kept == ids[: len(kept)]
        seen.append(tokenizer.decode(kept))
        assert text.startswith(seen[-1])
        assert len(kept) >= end - 3, "more is left out than a character"
    assert seen[-1] == text
    assert tokenizer.drop_unfinished([*ids, tokenizer.id_of("ä"), tokenizer.unk_id]) == ids
    wrong = [tokenizer.id_of("½"), tokenizer.id_of("½")]  # not a beginning of anything
    assert tokenizer.drop_unfinished(wrong) == wrong


def test_bytes_that_make_no_character_are_shown_as_unknown():
    tokenizer = make(MERGES[:-2])
    whole = tokenizer.encode("你")
    assert tokenizer.decode(whole[:2]) == "⁇"  # cut short
    assert tokenizer.decode([*whole[:2], *tokenizer.encode("cat")]) == "⁇ cat"
    assert tokenizer.decode([whole[2]]) == "⁇"  # a continuation that continues nothing
    assert tokenizer.decode([*tokenizer.encode("cat"), tokenizer.unk_id]) == "cat⁇"


def test_a_cut_vocabulary_keeps_what_is_frequent_and_spells_it_as_before():
    full = make()
    cut = full.cut(["the cat", "the cat", "that"], ["<fra>"], min_count=2)
    assert pieces(cut, "the cat") == ["Ġthe", "Ġcat"]
    # "Ġth", "th" and "at" are but steps to them: what remains of them is taken apart.
    assert pieces(cut, "that") == ["Ġ", "t", "h", "a", "t"]
    assert cut.vocab_size == 2 + 1 + 256 + 2 + 3
    assert cut.decode(cut.encode(TEXT)) == TEXT
    assert cut.id_of("<fra>") == 2
    again = full.cut(["that", "the cat", "the cat"], ["<fra>"], min_count=2)
    assert again.pieces == cut.pieces


def test_a_cut_vocabulary_keeps_the_letters_of_its_texts_however_rare():
    full = make([*MERGES, ("Ã", "¤"), ("Ã", "©")])  # ä and é
    cut = full.cut(["the cat", "the cat", "你好", "hä"], min_count=2)
    assert pieces(cut, "你") == ["ä½ł"]
    assert pieces(cut, "hä") == ["Ġ", "h", "Ã¤"]
    assert "Ã©" not in cut.pieces


def test_a_folder_keeps_it(tmp_path):
    cut = make().cut(["the cat", "the cat"], min_count=2)
    cut.save(tmp_path)
    loaded = load_tokenizer(tmp_path)
    assert isinstance(loaded, BytePairTokenizer)
    assert loaded.pieces == cut.pieces
    assert loaded.encode(TEXT) == cut.encode(TEXT)


def test_tokenizer_json_keeps_its_ids(tmp_path):
    vocab = {letter: number for number, letter in enumerate(BYTE_LETTERS.values())}
    vocab |= {"".join(pair): 256 + number for number, pair in enumerate(MERGES)}
    vocab[""] = len(vocab)
    added = [{"content": "<|en|>", "id": len(vocab)}]
    for merges in ([" ".join(pair) for pair in MERGES], [list(pair) for pair in MERGES]):
        document = {"model": {"vocab": vocab, "merges": merges}, "added_tokens": added}
        (tmp_path / "tokenizer.json").write_text(json.dumps(document))
        tokenizer = BytePairTokenizer.from_json(tmp_path / "tokenizer.json")
        assert [tokenizer.id_of(piece) for piece in ("Ġthe", "<|en|>", BLANK)] == [vocab["Ġthe"], len(vocab), 266]
        assert pieces(tokenizer, "the cat") == ["Ġthe", "Ġcat"]


def test_a_blank_of_its_own_keeps_its_id(tmp_path):
    vocab = {piece: number for number, piece in enumerate(("<|blank|>", *BYTE_LETTERS.values()))}
    path = tmp_path / "tokenizer.json"
    for more, size in (({}, 258), ({UNK: 257}, 258)):
        path.write_text(json.dumps({"model": {"vocab": vocab | more, "merges": []}, "added_tokens": []}))
        tokenizer = BytePairTokenizer.from_json(path, blank_id=0)
        assert (tokenizer.blank_id, tokenizer.unk_id, tokenizer.vocab_size) == (0, 257, size)
    with pytest.raises(DataError, match="the blank must be one of its 258 pieces, got 258"):
        BytePairTokenizer.from_json(path, blank_id=258)


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ("{", r"tokenizer.json of byte-level BPE \(JSONDecodeError\)"),
        ('{"model": {"type": "Unigram"}, "added_tokens": []}', r"byte-level BPE \(KeyError\)"),
        ('{"model": {"vocab": {"a": 1}, "merges": []}, "added_tokens": []}', "without gaps"),
        ('{"model": {"vocab": {"a": 0}, "merges": []}, "added_tokens": []}', "every byte must be a piece"),
    ],
)
def test_other_files_are_refused(tmp_path, document, message):
    (tmp_path / "tokenizer.json").write_text(document)
    with pytest.raises(DataError, match=message):
        BytePairTokenizer.from_json(tmp_path / "tokenizer.json")


def test_wrong_merges_are_named_by_line(tmp_path):
    path = tmp_path / "merges.txt"
    path.write_text("a b\nab\n")
    with pytest.raises(DataError, match=r"merges.txt:2: must be two pieces .* got 'ab'"):
        read_merges(path)
    with pytest.raises(DataError, match="cannot be read"):
        read_merges(tmp_path / "none.txt")
