import pytest
import torch

from speechnar.cli.main import main
from speechnar.data.parallel_text import Sentence, read_sentences, write_sentences
from speechnar.errors import ConfigError, DataError
from speechnar.models.base import save_model
from speechnar.models.mt.fretna_ctc import FretnaCtc, FretnaCtcConfig
from speechnar.models.mt.reta import Reta, RetaConfig
from speechnar.train.distil import distil
from tests.unit.models.texts import TOKENIZER, sentences


@pytest.fixture(scope="module")
def teacher():
    torch.manual_seed(0)
    model = Reta.from_config(RetaConfig.debug(), TOKENIZER).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.6)
    return model


def run(teacher, given, **options):
    return distil(teacher, TOKENIZER, given, source="eng", target="deu", **options)


def test_targets_are_the_teachers_translations(teacher):
    given = sentences(12)
    found = run(teacher, given, raw_share=0.0, beam_size=3, token_reward=0.1, batch_tokens=30)
    assert [s.utt_id for s in found] == [s.utt_id for s in given]
    for before, after in zip(given, found, strict=True):
        src = torch.tensor([[*TOKENIZER.encode(before.text), TOKENIZER.id_of("<eos>")]])
        (ids,) = teacher.decode(src, torch.tensor([src.size(1)]), beam_size=3, token_reward=0.1)
        assert after.translations == {"deu": TOKENIZER.decode(ids) or before.translations["deu"]}
        assert (after.text, after.lang) == (before.text, "eng")


def test_a_share_keeps_its_targets(teacher):
    given = sentences(40)
    found = run(teacher, given, raw_share=0.5, beam_size=1)
    num_raw = sum(a.translations == b.translations for a, b in zip(given, found, strict=True))
    assert 10 < num_raw < 30
    assert run(teacher, given, raw_share=1.0) == given
    with pytest.raises(ConfigError, match="raw_share"):
        run(teacher, given, raw_share=1.5)


def test_either_text_may_be_the_source(teacher):
    german = [Sentence("a", "ef gh", "deu", {"eng": "ab cd"}), Sentence("b", "ef", "deu")]
    (found,) = run(teacher, german, raw_share=1.0)
    assert found == Sentence("a", "ab cd", "eng", {"deu": "ef gh"})
    with pytest.raises(DataError, match="none of 1 sentences has text in eng and in deu"):
        run(teacher, german[1:])


def test_a_directory_is_distilled_once(teacher, tmp_path, capsys):
    save_model(tmp_path / "teacher", teacher, TOKENIZER)
    write_sentences(tmp_path / "train", sentences(4))
    arguments = [str(tmp_path / "teacher"), str(tmp_path / "train"), str(tmp_path / "out")]
    options = ["--source", "eng", "--target", "deu", "--beam-size", "1"]
    assert main(["data", "distil", *arguments, *options]) == 0
    assert len(read_sentences(tmp_path / "out")) == 4
    before = (tmp_path / "out/text.deu").stat().st_mtime_ns
    assert main(["data", "distil", *arguments, *options]) == 0
    assert (tmp_path / "out/text.deu").stat().st_mtime_ns == before
    save_model(tmp_path / "student", FretnaCtc.from_config(FretnaCtcConfig.debug(), TOKENIZER), TOKENIZER)
    assert main(["data", "distil", str(tmp_path / "student"), arguments[1], str(tmp_path / "other"), *options]) == 2
    assert "must be of kind reta, got FretnaCtc" in capsys.readouterr().err
