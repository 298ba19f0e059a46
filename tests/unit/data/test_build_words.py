import pytest

from speechnar.cli.main import main
from speechnar.data.build_words import build_words
from speechnar.errors import DataError
from speechnar.text.tokenizer import load_tokenizer


def test_words_are_tokens_and_others_are_unknown(tmp_path):
    build_words(["a dog barks", "<na>", "a cat", "crying_baby"], tmp_path / "words")
    tokenizer = load_tokenizer(tmp_path / "words")
    assert tokenizer.pieces == ("<blank>", "<unk>", "a", "barks", "cat", "crying_baby", "dog")
    assert tokenizer.encode("a dog crying_baby") == [2, 6, 5]
    assert tokenizer.unk_id in tokenizer.encode("crying")
    assert tokenizer.decode([2, 6]) == "a dog"


def test_rare_words_are_left_out(tmp_path):
    texts = ["one two", "two three", "three two"]
    build_words(texts, tmp_path / "words", min_count=2)
    assert load_tokenizer(tmp_path / "words").pieces[2:] == ("two", "three")
    build_words(["quite other words"], tmp_path / "words")  # complete, and left alone
    assert load_tokenizer(tmp_path / "words").pieces[2:] == ("two", "three")
    with pytest.raises(DataError, match="no word stands 4 times"):
        build_words(texts, tmp_path / "none", min_count=4)


def test_the_command_line(tmp_path, capsys):
    assert main(["data", "words", str(tmp_path / "nothing"), str(tmp_path / "words")]) == 1
    assert "speechnar: " in capsys.readouterr().err
