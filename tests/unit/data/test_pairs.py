import pytest
import torch

from speechnar.cli.main import main
from speechnar.config import parse_config
from speechnar.data.pairs import PairDataConfig, PairDataset
from speechnar.data.parallel_text import Sentence, read_sentences, write_sentences
from speechnar.errors import ConfigError, DataError
from speechnar.text.tokenizer import CharTokenizer, load_tokenizer
from tests.unit.models.texts import TOKENIZER, dataset, sentences

PAIR = Sentence("a", "ab cd a b", "eng", {"deu": "ef gh"})


def texts(tokens, lens):
    return [TOKENIZER.decode(row[:n].tolist()) for row, n in zip(tokens, lens, strict=True)]


def ends(batch):
    eos = TOKENIZER.id_of("<eos>")
    return [int(row[n - 1]) == eos for row, n in zip(batch.src_tokens, batch.src_lens, strict=True)]


def test_a_directory_is_read_back(tmp_path):
    given = [*sentences(5), Sentence("z", "ohne Wort", "deu", {"fra": "sans mot", "eng": "wordless"})]
    write_sentences(tmp_path, given)
    assert read_sentences(tmp_path) == given
    write_sentences(tmp_path, given[:2])  # without text.fra, which would name an unknown sentence
    assert read_sentences(tmp_path) == given[:2]


def test_every_fault_of_a_directory_is_named(tmp_path):
    write_sentences(tmp_path, sentences(3))
    (tmp_path / "text.fra").write_text("s000 un\ns009 deux\n")
    (tmp_path / "utt2lang").write_text("s000 eng\ns001 English\n")
    with pytest.raises(DataError, match=r"utt2lang:2.*ISO 639-3") as caught:
        read_sentences(tmp_path)
    for fault in (r"'s002' is not in utt2lang", r"text\.fra: 's009' is not in text"):
        assert caught.match(fault)
    with pytest.raises(DataError, match="no such folder"):
        read_sentences(tmp_path / "nowhere")


@pytest.mark.parametrize(
    "wrong", [[], [PAIR, PAIR], [Sentence("a b", "x", "eng")], [Sentence("a", "x", "eng", {"deu": " "})]]
)
def test_what_cannot_be_read_back_is_not_written(tmp_path, wrong):
    with pytest.raises(DataError):
        write_sentences(tmp_path / "out", wrong)
    assert not (tmp_path / "out/text").exists()


def test_whole_pairs_end_and_prefixes_share_the_words(tmp_path):
    batches = [batch for epoch in range(12) for batch in dataset([PAIR]).batches(epoch)]
    seen = set()
    for batch in batches:
        assert batch.utt_ids == ("a",) * len(batch.utt_ids) and set(batch.refs) == {"ef gh"}
        rows = zip(
            texts(batch.src_tokens, batch.src_lens),
            ends(batch),
            texts(batch.tgt_tokens, batch.tgt_lens),
            texts(batch.src_tokens, batch.previous_src_lens),
            texts(batch.tgt_tokens, batch.previous_tgt_lens),
            strict=True,
        )
        seen |= set(rows)
    share = {"ab cd a b": "ef gh", "ab cd a": "ef gh", "ab cd": "ef", "ab": "", "": ""}  # round half to even
    known = ["", *sorted(share, key=len)[1:]]
    for src, is_complete, tgt, before, tgt_before in seen:
        assert tgt == share[src] and tgt_before == share[before]
        num_read = known.index(src) + is_complete
        assert max(num_read - 3, 0) <= known.index(before) <= max(num_read - 1, 0)
    assert {(src, is_complete) for src, is_complete, *_ in seen} == {
        *((src, False) for src in share if src),
        ("ab cd a b", True),
    }


def test_the_direction_may_be_turned():
    (batch,) = dataset([PAIR], training=False, source="deu", target="eng").batches(0)
    assert texts(batch.src_tokens, batch.src_lens) == ["ef gh"]
    assert texts(batch.tgt_tokens, batch.tgt_lens) == ["ab cd a b"] and batch.refs == ("ab cd a b",)


def test_epochs_hold_every_pair_and_its_prefixes_in_batches_of_few_tokens():
    given = sentences(40)
    data = dataset(given, prefixes=2)
    orders = []
    for epoch in range(2):
        batches = list(data.batches(epoch))
        counts = {sentence.utt_id: 0 for sentence in given}
        for batch in batches:
            assert max(batch.src_tokens.numel(), batch.tgt_tokens.numel()) <= 60
            for utt_id in batch.utt_ids:
                counts[utt_id] += 1
        assert set(counts.values()) == {3}
        orders.append([batch.utt_ids for batch in batches])
    assert orders[0] != orders[1]
    assert [batch.utt_ids for batch in dataset(given, prefixes=2).batches(1)] == orders[1]
    assert [batch.utt_ids for batch in dataset(given, prefixes=2, seed=1).batches(1)] != orders[1]


def test_data_go_on_where_they_were_left():
    data = dataset(sentences(30))
    whole = [batch.src_tokens for batch in data.batches(3)]
    first = data.batches(3)
    for _ in range(2):
        next(first)
    other = dataset(sentences(30))
    other.load_state_dict(data.state_dict())
    rest = [batch.src_tokens for batch in other.batches(3)]
    assert len(rest) == len(whole) - 2
    assert all(torch.equal(a, b) for a, b in zip(rest, whole[2:], strict=True))


def test_held_out_pairs_are_whole_and_always_the_same():
    given = sentences(20)
    data = dataset(given, training=False)
    batches = list(data.batches(0))
    assert sorted(utt_id for batch in batches for utt_id in batch.utt_ids) == [s.utt_id for s in given]
    assert all(flag for batch in batches for flag in ends(batch))
    assert [batch.utt_ids for batch in batches] == [batch.utt_ids for batch in data.batches(5)]


def test_what_cannot_be_used_is_dropped_and_counted():
    given = [
        *sentences(3),
        Sentence("only", "ab", "eng"),
        Sentence("zlong", "a" * 30, "eng", {"deu": "e"}),
    ]
    data = dataset(given, max_tokens=20)
    assert len(data) == 3 and dict(data.dropped) == {"no text in deu": 1, "longer than max_tokens": 1}
    with pytest.raises(DataError, match=r"none of 1 sentences is usable.*no text in fra"):
        dataset([PAIR], target="fra")
    with pytest.raises(DataError, match="must differ"):
        dataset([PAIR, PAIR])
    lacking = CharTokenizer(("<blank>", "<unk>", "a"))
    config = PairDataConfig(train="a", dev="b", source="eng", target="deu")
    with pytest.raises(DataError, match="<eos>"):
        PairDataset([PAIR], lacking, config, training=True, seed=0)
    with pytest.raises(ConfigError, match="source"):
        parse_config({"train": "a", "dev": "b", "source": "en", "target": "deu"}, PairDataConfig)


def test_one_tokenizer_spells_both_languages(tmp_path):
    write_sentences(tmp_path / "train", sentences(50))
    arguments = [str(tmp_path / "train"), str(tmp_path / "tokens"), "--vocab-size", "24", "--model-type", "bpe"]
    assert main(["data", "tokenizer", *arguments, "--translate-to", "deu"]) == 0
    tokenizer = load_tokenizer(tmp_path / "tokens")
    for text in ("abc d", "efg h"):
        ids = tokenizer.encode(text)
        assert tokenizer.decode(ids) == text and tokenizer.unk_id not in ids
    assert tokenizer.id_of("<eos>") < tokenizer.vocab_size
