import json

from speechnar.cli.main import main
from speechnar.data.parallel_text import Sentence, write_sentences
from tests.unit.models.texts import TOKENIZER


def test_texts_are_counted_by_language(tmp_path, capsys):
    given = [Sentence("a", "ab cd", "eng", {"deu": "efz"}), Sentence("b", "a", "eng", {"deu": "e f", "fra": "b"})]
    write_sentences(tmp_path / "data", given)
    TOKENIZER.save(tmp_path / "tokens")
    assert main(["data", "describe", str(tmp_path / "tokens"), str(tmp_path / "data")]) == 0
    report = json.loads(capsys.readouterr().out)[str(tmp_path / "data")]
    assert report["sentences"] == 2
    assert (report["eng"]["texts"], report["eng"]["words"], report["eng"]["tokens"]) == (2, 3, 6)
    assert (report["deu"]["words"], report["deu"]["unknown_tokens"]) == (3, 1)
    assert report["deu"]["tokens_per_source_token"]["1.0"] == 3.0  # 3 tokens for 1
    assert report["deu"]["tokens_per_text"]["1.0"] == 3.0
    assert report["fra"]["texts"] == 1 and "tokens_per_source_token" not in report["eng"]
