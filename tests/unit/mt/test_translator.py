import io
import json

import pytest
import torch

from speechnar.errors import ConfigError
from speechnar.models.base import LoadedModel, save_model
from speechnar.models.mt.fretna import Fretna, FretnaConfig
from speechnar.models.mt.fretna_ctc import FretnaCtc, FretnaCtcConfig
from speechnar.models.mt.reta import Reta, RetaConfig
from speechnar.models.mt.wait_k import WaitK, WaitKConfig
from speechnar.models.pack import pack_model
from speechnar.models.tts.vocos import Vocos, VocosConfig
from speechnar.mt.systems import TranslationOptions
from speechnar.mt.translator import MAX_PIECE_TOKENS, Translator
from speechnar.text.tokenizer import CharTokenizer

TOKENIZER = CharTokenizer(("<blank>", "<unk>", "▁", *"abcdefgh.", "<sop>", "<sos>", "<eos>"))
# With seeds for which random models say different things of different sources.
KINDS = {
    "reta": (Reta, RetaConfig, 3),
    "fretna": (Fretna, FretnaConfig, 3),
    "fretna_ctc": (FretnaCtc, FretnaCtcConfig, 3),
    "wait_k": (WaitK, WaitKConfig, 9),
}
CARD = "---\nsource: eng\ntarget: deu\n---\n# tiny\n"


def make(kind):
    model_cls, config_cls, seed = KINDS[kind]
    torch.manual_seed(seed)
    model = model_cls.from_config(config_cls.debug(), TOKENIZER).eval()
    with torch.no_grad():  # so that a random model says much
        for parameter in model.parameters():
            parameter.mul_(1.6)
    return model


TRANSLATORS = {
    kind: Translator(LoadedModel(model, TOKENIZER, model.config, kind), source="en", target="de")
    for kind, model in ((kind, make(kind)) for kind in KINDS)
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_text_is_translated_alone_as_among_others(kind):
    translator = TRANSLATORS[kind]
    texts = ["ab cd.", "", "a", "abc d ab. cd a bcd abc"]
    found = translator.translate(texts)
    assert found == [translator.translate(text) for text in texts]
    assert found[0].text and (found[0].source, found[0].target) == ("eng", "deu")
    assert [piece.source for piece in found[3].pieces] == ["abc d ab. cd a bcd abc"]  # small letters go on
    assert found[1].text == "" and found[1].pieces == ()
    assert translator.translate([]) == []
    assert json.loads(json.dumps(found[0].to_dict()))["pieces"][0]["source"] == "ab cd."


@pytest.mark.parametrize("kind", ["reta", "fretna_ctc", "wait_k"])
def test_a_finished_stream_says_what_a_whole_text_gives(kind):
    translator = TRANSLATORS[kind]
    stream = translator.stream(source="eng", target="German", num_masked=1)
    for word in ("abc", "d", "ab"):
        assert not stream.push(word).is_final
    update = stream.finish()
    assert update.is_final
    assert update.text == translator.translate("abc d ab").text


def test_sentences_are_translated_one_by_one():
    translator = TRANSLATORS["fretna_ctc"]
    found = translator.translate("abc d.\n\ncd a\nb")
    assert [piece.source for piece in found.pieces] == ["abc d.", "cd a b"]
    assert found.text == " ".join(translator.translate(text).text for text in ("abc d.", "cd a b"))


@pytest.mark.parametrize("text", ["abc d " * 5000, "abcd" * 2500])
def test_ten_thousand_words_and_a_word_of_ten_thousand_letters(text):
    translator = TRANSLATORS["fretna_ctc"]
    found = translator.translate(text)
    assert " ".join(piece.source for piece in found.pieces).split() == text.split() or " " not in text
    assert "".join(piece.source for piece in found.pieces).replace(" ", "") == text.replace(" ", "")
    sizes = [len(TOKENIZER.encode(piece.source)) for piece in found.pieces]
    assert min(sizes) > MAX_PIECE_TOKENS // 3 and max(sizes) <= MAX_PIECE_TOKENS
    assert found.text == " ".join(piece.text for piece in found.pieces if piece.text)


@pytest.mark.parametrize("kind", KINDS)
def test_what_no_model_reads_stays_as_it_is(kind, caplog):
    translator = TRANSLATORS[kind]
    found = translator.translate(["Привет мир", "ab cd", "你好。再见。"])
    assert [item.text for item in found] == ["Привет мир", translator.translate("ab cd").text, "你好。 再见。"]
    assert [piece.num_unknown for item in found for piece in item.pieces] == [9, 0, 3, 3]
    assert "3 of 4 sentences have no letter that model" in caplog.text
    assert "Привет" in caplog.text
    caplog.clear()
    mixed = translator.translate("ab Ж cd").pieces[0]
    assert mixed.num_unknown == 1 and not caplog.text


@pytest.mark.parametrize("kind", KINDS)
def test_what_no_model_reads_stays_as_it_is_while_it_grows(kind):
    translator = TRANSLATORS[kind]
    *growing, last = translator.live(["Привет", "мир"])
    assert last.is_final and last.text == translator.translate("Привет мир").text == "Привет мир"
    assert [update.text for update in growing] == (["", ""] if kind == "wait_k" else ["Привет", "Привет мир"])
    mixed = list(translator.live(["Ж", "ab", "cd"]))
    assert mixed[-1].text == translator.translate("Ж ab cd").text
    assert kind != "wait_k" or not any(update.erased for update in mixed)


def test_control_characters_and_white_space():
    translator = TRANSLATORS["fretna_ctc"]
    expected = translator.translate("ab cd")
    for text in ("a\x00b\x07 cd\x1b", "\tab\r\ncd ", "ab\x0bcd", "ab \u200bcd\ud800"):
        assert translator.translate(text) == expected
        stream = translator.stream()
        stream.push(text)
        assert stream.finish().text == expected.text
    for text in ("", " \n\n ", "\x00\x07"):
        assert translator.translate(text).pieces == ()


def test_a_source_that_grows_line_by_line():
    translator = TRANSLATORS["fretna_ctc"]
    updates = list(translator.live(["ab", "cd a\n", "\n", " \x00\n", "d"], num_masked=1))
    assert [(update.num_read, update.is_final) for update in updates] == [
        *((1, False), (3, False), (3, True)),
        *((1, False), (1, True)),
    ]
    assert updates[2].text == translator.translate("ab cd a").text
    assert updates[4].text == translator.translate("d").text
    assert list(translator.live([])) == list(translator.live(["", "\n"])) == []


def test_updates_come_before_the_next_line_is_read():
    read = []

    def lines():
        for word in ("ab", "cd"):
            read.append(word)
            yield word

    updates = TRANSLATORS["fretna_ctc"].live(lines())
    assert read == []
    next(updates)
    assert read == ["ab"]


def test_a_source_of_any_length_grows():
    translator = TRANSLATORS["fretna_ctc"]
    updates = list(translator.live(["abc d"] * 100 + ["abc d " * 100]))
    finals = [update for update in updates if update.is_final]
    assert sum(update.num_read for update in finals) == 400
    assert len(finals) > 8
    assert len(updates) >= 100 + len(finals)


def test_a_stream_that_ends_within_a_word():
    translator = TRANSLATORS["fretna_ctc"]
    updates = list(translator.live(io.StringIO("ab cd\nbc")))
    assert updates[-1].is_final
    assert updates[-1].text == translator.translate("ab cd bc").text


def test_languages_come_from_the_card(tmp_path):
    save_model(tmp_path / "tiny", make("fretna_ctc"), TOKENIZER, card=CARD)
    translator = Translator.load(tmp_path / "tiny", device="cpu")
    assert (translator.name, translator.source, translator.target) == ("tiny", "eng", "deu")
    assert translator.translate("ab cd") == TRANSLATORS["fretna_ctc"].translate("ab cd", source="English", target="de")
    for call in (translator.translate, translator.stream, translator.live):
        given = [] if call == translator.stream else ["ab"]
        with pytest.raises(ConfigError, match=r"from eng into deu, got target 'fra'"):
            call(*given, target="fra")
        with pytest.raises(ConfigError, match=r"from eng into deu, got source 'de'"):
            call(*given, source="de", target="de")
    with pytest.raises(ConfigError, match="language must be"):
        translator.translate("ab", target="Klingonese")


def test_a_model_that_does_not_say_its_languages(tmp_path):
    save_model(tmp_path / "tiny", make("fretna_ctc"), TOKENIZER, card="# tiny\n")
    translator = Translator.load(str(tmp_path / "tiny"), device="cpu")
    found = translator.translate("ab cd")
    assert found.text == TRANSLATORS["fretna_ctc"].translate("ab cd").text
    assert found.source is found.target is None
    with pytest.raises(ConfigError, match=r"does not say .* target cannot be 'deu'.*source: eng, target: deu"):
        translator.translate("ab", target="deu")


def test_packing_keeps_the_languages(tmp_path):
    save_model(tmp_path / "tiny", make("fretna_ctc"), TOKENIZER, card=CARD)
    pack_model(tmp_path / "tiny", tmp_path / "packed", card="# Of a recipe\n", dtype="float32")
    assert Translator.load(tmp_path / "packed", device="cpu").target == "deu"
    assert (tmp_path / "packed" / "README.md").read_text() == "---\nsource: eng\ntarget: deu\n---\n# Of a recipe\n"
    card = "---\nlicense: x\nsource: fra\ntasks:\n  - mt\n---\nText.\n"
    pack_model(tmp_path / "tiny", tmp_path / "other", card=card, dtype="float32")
    assert (tmp_path / "other" / "README.md").read_text() == card.replace("---\n", "---\ntarget: deu\n", 1)


def test_what_a_growing_text_shows_is_as_the_card_says(tmp_path):
    model = make("fretna_ctc")
    save_model(tmp_path / "tiny", model, TOKENIZER, card="---\nmasked: 2\nbias: 1.5\n---\n")
    translator = Translator.load(tmp_path / "tiny", device="cpu", precision="fp32")
    plain = Translator(LoadedModel(model, TOKENIZER, model.config, "plain"))
    lines = ["abc", "d ab", "bcd", "a cd"]
    asked = list(plain.live(lines, num_masked=2, options=TranslationOptions(bias=1.5)))
    assert [update.text for update in translator.live(lines)] == [update.text for update in asked]
    shown = [update.text for update in plain.live(lines)]
    assert [update.text for update in translator.live(lines, num_masked=0, options=TranslationOptions())] == shown
    assert shown != [update.text for update in asked]
    for wrong in ("masked: -1", "masked: yes", "bias: much"):
        (tmp_path / "tiny" / "README.md").write_text(f"---\n{wrong}\n---\n")
        with pytest.raises(ConfigError, match="masked must be a number of words"):
            Translator.load(tmp_path / "tiny", device="cpu")


def test_what_cannot_be_translated():
    vocos = Vocos(VocosConfig.debug())
    with pytest.raises(ConfigError, match="must be a model of kind reta, fretna, fretna_ctc or wait_k, got Vocos"):
        Translator(LoadedModel(vocos, TOKENIZER, vocos.config, "tiny"))
    for given in (b"ab", [b"ab"], ["ab", None]):
        with pytest.raises(ConfigError, match=r"text must be a str, .* decode bytes"):
            TRANSLATORS["fretna_ctc"].translate(given)
    with pytest.raises(ConfigError, match="has no delay"):
        TRANSLATORS["fretna_ctc"].stream(options=TranslationOptions(delay=2))
    with pytest.raises(ConfigError, match="num_masked"):
        TRANSLATORS["fretna_ctc"].live(["ab"], num_masked=-1)
