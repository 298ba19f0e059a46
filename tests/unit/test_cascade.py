"""Speech that is recognised, and whose text is translated: segment by segment what either does alone."""

import json

import pytest
import soundfile
import torch

import speechnar
from speechnar import Cascade, ConfigError, Transcriber, Translator
from speechnar.cli.main import main
from speechnar.models.base import save_model
from speechnar.models.mt.fretna_ctc import FretnaCtc, FretnaCtcConfig
from tests.unit.test_captions import TOKENIZER
from tests.unit.tiny import RATE, save_tiny_model, vowels


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("cascade")
    save_tiny_model(root / "asr")
    torch.manual_seed(3)
    model = FretnaCtc.from_config(FretnaCtcConfig.debug(), TOKENIZER)
    save_model(root / "mt", model, TOKENIZER, card="---\nsource: eng\ntarget: deu\n---\n")
    soundfile.write(root / "talk.wav", vowels(2.5), RATE)
    return {name: str(root / name) for name in ("asr", "mt", "talk.wav")}


@pytest.fixture(scope="module")
def parts(folders):
    return Transcriber.load(folders["asr"], device="cpu"), Translator.load(folders["mt"], device="cpu")


def test_each_segment_is_translated_and_keeps_its_times(folders, parts):
    transcriber, translator = parts
    heard = transcriber.transcribe(folders["talk.wav"], language="eng")
    (found,) = Cascade(*parts).transcribe_many([folders["talk.wav"]], to="German", language="eng")
    assert heard.segments
    assert [(each.start, each.end) for each in found.segments] == [(each.start, each.end) for each in heard.segments]
    assert [each.text for each in found.segments] == [translator.translate(each.text).text for each in heard.segments]
    assert found.text == " ".join(each.text for each in found.segments) != ""
    assert (found.task, found.language, found.model) == ("translate", "eng", "asr + mt")


def test_the_function_takes_both_by_name(folders, parts):
    chosen = {"model": folders["asr"], "device": "cpu", "language": "eng"}
    (expected,) = Cascade(*parts).transcribe_many([folders["talk.wav"]], to="deu", language="eng")
    assert speechnar.translate(folders["talk.wav"], to="deu", translator=folders["mt"], **chosen) == expected
    alone = speechnar.translate([folders["talk.wav"]], to="deu", **chosen)
    assert alone == parts[0].translate([folders["talk.wav"]], to="deu", language="eng")


def test_the_command_line_has_it(folders, parts, capsys):
    (expected,) = Cascade(*parts).transcribe_many([folders["talk.wav"]], to="deu", language="eng")
    argv = ["translate", folders["talk.wav"], "-l", "eng", "-m", folders["asr"], "-d", "cpu", "-f", "json", "-q"]
    assert main([*argv, "--to", "deu", "--translator", folders["mt"]]) == 0
    assert json.loads(capsys.readouterr().out)["text"] == expected.text
    assert main(["translate", "--text", "ab", "--translator", folders["mt"]]) == 2
    assert "--translator cannot be used with text" in capsys.readouterr().err


def test_what_cannot_be_is_said_at_once(folders, parts):
    cascade = Cascade(*parts)
    for wish, says in (
        ({"to": "fra"}, "translates from eng into deu"),
        ({"to": "deu", "language": "fra"}, "translates from eng into deu"),
        ({"to": "deu", "word_timestamps": True}, "have no times"),
    ):
        with pytest.raises(ConfigError, match=says):
            cascade.transcribe_many([folders["talk.wav"]], **wish)


def test_speech_of_another_language_fails_by_itself(folders, parts):
    """The tiny model takes these vowels for one of its languages; a translator that reads another has no use for it."""
    transcriber, translator = parts
    heard = transcriber.transcribe(folders["talk.wav"])
    other = Translator(translator._loaded, source="fra" if heard.language != "fra" else "eng", target="deu")
    cascade = Cascade(transcriber, other)
    (failed,) = cascade.transcribe_many([folders["talk.wav"]], to="deu")
    assert isinstance(failed, ConfigError)
    assert f"the speech is taken for {heard.language}" in str(failed)
