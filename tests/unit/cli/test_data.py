"""The commands that prepare data directories: what they are told reaches what does it, and what they answer."""

import json

import pytest

from speechnar.cli.main import main
from speechnar.data.describe import describe_dirs
from speechnar.data.parallel_text import Sentence, write_sentences
from speechnar.text.byte_pairs import BYTE_LETTERS, BytePairTokenizer
from speechnar.text.tokenizer import BLANK, UNK, load_tokenizer
from tests.unit.data.test_codes import make_codec, write_data


@pytest.fixture
def dirs(tmp_path) -> list[str]:
    """Return two directories of texts."""
    for name, texts in (("one", ["a dog", "a cat"]), ("two", ["the cat", "the cow"])):
        write_sentences(tmp_path / name, [Sentence(f"{name}{i}", text, "eng") for i, text in enumerate(texts)])
    return [str(tmp_path / "one"), str(tmp_path / "two")]


def test_a_tokenizer_is_of_all_directories(dirs, tmp_path, capsys):
    out = str(tmp_path / "letters")
    argv = ["--model-type", "char", "--vocab-size", "40", "--languages", "eng", "--translate-to", "deu"]
    assert main(["data", "tokenizer", *dirs, out, *argv]) == 0
    pieces = load_tokenizer(out).pieces
    assert {"<eng>", "<asr>", "<st_deu>"} <= set(pieces)
    assert set("adogcthew") <= set(pieces)  # of both
    capsys.readouterr()
    assert main(["data", "describe", out, *dirs]) == 0
    assert json.loads(capsys.readouterr().out) == json.loads(json.dumps(describe_dirs(dirs, out)))


def test_a_tokenizer_is_cut_to_the_texts(dirs, tmp_path):
    pairs = [("a", "t"), ("c", "at"), ("d", "o")]
    whole = BytePairTokenizer([*BYTE_LETTERS.values(), "at", "cat", "do", "<blank>", "<unk>"], pairs)
    whole.save(tmp_path / "whole")
    for name, folders, more, kept in (
        ("both", dirs, [], {"cat", "do"}),
        ("second", dirs[1:], [], {"cat"}),
        ("frequent", dirs, ["--min-count", "2"], {"cat"}),
    ):
        argv = [*folders, str(tmp_path / name), "--cut", str(tmp_path / "whole"), *more]
        assert main(["data", "tokenizer", *argv]) == 0
        cut = load_tokenizer(tmp_path / name)
        assert kept == set(cut.pieces) & {"cat", "do"}
        assert cut.decode(cut.encode("the cat")) == "the cat"


def test_words_are_counted_over_all_directories(tmp_path):
    folders = [str(write_data(tmp_path / name, {"a": 0.1, "d": 0.1})) for name in ("one", "two")]
    assert main(["data", "words", *folders, str(tmp_path / "words"), "--min-count", "2"]) == 0
    assert load_tokenizer(tmp_path / "words").pieces == (BLANK, UNK, "cat", "dog")
    assert main(["data", "words", *folders, str(tmp_path / "none"), "--min-count", "3"]) == 1


def test_sound_is_coded_in_every_directory(tmp_path, capsys):
    make_codec(tmp_path / "codec")
    folders = [write_data(tmp_path / name, {"a": 0.5, "b": 0.3}) for name in ("one", "two")]
    assert main(["data", "codes", str(tmp_path / "codec"), *map(str, folders), "--min-seconds", "0.4"]) == 0
    assert capsys.readouterr().err == "".join(f"{folder}: {25 + 20} frames\n" for folder in folders)
    assert all((folder / "codes.safetensors").is_file() for folder in folders)


@pytest.mark.parametrize(
    ("argv", "status", "says"),
    [
        (["download", "ftp://nowhere/file", "{out}"], 1, "http"),
        (["describe", "{out}", "{out}"], 1, "out"),
        (["durations", "{out}", "{out}"], 1, "out"),
        (["codes", "{out}", "{out}"], 2, "out"),
        (["features", "{out}", "{out}"], 2, "out"),
        (["distil", "{out}", "{out}", "{out}", "--source", "eng", "--target", "deu"], 2, "out"),
        (["distil", "{out}", "{out}", "{out}"], 2, "--source, --target"),
        (["tokenizer", "{out}"], 2, "OUT"),
    ],
)
def test_mistakes_are_named(argv, status, says, tmp_path, capsys):
    assert main(["data", *(arg.format(out=tmp_path / "out") for arg in argv)]) == status
    out, err = capsys.readouterr()
    assert out == ""
    assert says in err
