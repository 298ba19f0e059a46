import json

from speechnar.cli.main import main
from speechnar.text.phonemes import PhonemeTokenizer
from speechnar.text.tokenizer import load_tokenizer
from tests.unit.data.corpus import make_data_dir


def test_command_line_trains_once_and_describes(tmp_path, capsys):
    utterances = make_data_dir(tmp_path / "train")
    arguments = [str(tmp_path / "train"), str(tmp_path / "tokenizer"), "--vocab-size", "40"]
    tasks = ["--languages", "eng", "fra", "--translate-to", "eng"]
    assert main(["data", "tokenizer", *arguments, *tasks]) == 0
    tokenizer = load_tokenizer(tmp_path / "tokenizer")
    assert list(tokenizer.language_ids()) == ["eng", "fra"]
    assert tokenizer.decode(tokenizer.encode("<eng><st_eng> seven one")) == "seven one"
    before = (tmp_path / "tokenizer/tokens.txt").stat().st_mtime_ns
    assert main(["data", "tokenizer", *arguments[:-1], "30"]) == 0
    assert (tmp_path / "tokenizer/tokens.txt").stat().st_mtime_ns == before

    assert main(["data", "describe", str(tmp_path / "tokenizer"), str(tmp_path / "train")]) == 0
    report = json.loads(capsys.readouterr().out)[str(tmp_path / "train")]
    assert report["utterances"] == len(utterances)
    assert report["languages"] == {"eng": 12, "fra": 12}
    assert report["translations"] == {"eng": 12, "fra": 6}
    assert report["unknown_tokens"] == 0
    assert report["seconds"]["1.0"] == 0.9


def test_errors_are_one_line(tmp_path, capsys):
    assert main(["data", "tokenizer", str(tmp_path / "none"), str(tmp_path / "out"), "--vocab-size", "40"]) == 1
    make_data_dir(tmp_path / "train", count=3)
    assert main(["data", "tokenizer", str(tmp_path / "train"), str(tmp_path / "out"), "--vocab-size", "5"]) == 2
    assert main(["data", "describe", str(tmp_path / "out"), str(tmp_path / "train")]) == 1
    assert [line.split(":")[0] for line in capsys.readouterr().err.splitlines()] == ["speechnar"] * 3


def test_phonemes_need_no_training(tmp_path, capsys):
    make_data_dir(tmp_path / "train", count=3)
    arguments = [str(tmp_path / "train"), str(tmp_path / "tokenizer"), "--model-type", "phonemes"]
    assert main(["data", "tokenizer", *arguments, "--vocab-size", "40"]) == 2
    assert main(["data", "tokenizer", *arguments, "--languages", "eng"]) == 2
    assert main(["data", "tokenizer", *arguments[:2]]) == 2
    assert capsys.readouterr().err.count("vocab_size must be given, unless model_type is phonemes") == 3
    assert main(["data", "tokenizer", *arguments]) == 0
    assert isinstance(load_tokenizer(tmp_path / "tokenizer"), PhonemeTokenizer)
