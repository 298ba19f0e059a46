"""The shipped translator, as users get it: how good it is, and how much it takes back while a text grows."""

import gzip
import os
from pathlib import Path

import pytest

from speechnar import Translator
from speechnar.cli.main import main
from speechnar.data.download import find_corpus
from speechnar.hub import DEFAULT_MT_MODEL, list_models, resolve_model
from speechnar.metrics.simultaneous import normalized_erasure
from speechnar.metrics.translation import bleu
from speechnar.mt.systems import TranslationOptions

ROOT = Path(__file__).parents[1]
TEACHER = f"{DEFAULT_MT_MODEL}-reta"
KINDS = {DEFAULT_MT_MODEL: "fretna_ctc", TEACHER: "reta"}
MAX_BYTES = 6_000_000
NUM_SENTENCES, NUM_VERIFIED = 100, 8
MIN_BLEU = 0.30
MAX_ERASURE = 0.2


@pytest.fixture(scope="module")
def model() -> Translator:
    return Translator.load(device="cpu")


@pytest.fixture(scope="module")
def pairs() -> list[tuple[str, str]]:
    """The first sentences of the test set, and their references."""
    if not os.environ.get("SPEECHNAR_CORPORA"):
        pytest.skip("needs multi30k in the folder that SPEECHNAR_CORPORA names")

    folder = find_corpus("multi30k")
    sides = [gzip.decompress((folder / f"test_2016_flickr.{lang}.gz").read_bytes()).decode() for lang in ("en", "de")]
    return list(zip(*(side.splitlines()[:NUM_SENTENCES] for side in sides), strict=True))


@pytest.mark.parametrize(("name", "kind"), KINDS.items())
def test_the_folder_is_small_safe_and_documented(name, kind):
    folder = resolve_model(name)
    names = {path.name for path in folder.iterdir()}
    assert names == {"config.json", "model.safetensors", "tokenizer.model", "tokens.txt", "README.md"}
    assert (folder / "model.safetensors").stat().st_size < MAX_BYTES
    (info,) = [info for info in list_models() if info.name == name]
    assert (info.source, info.kind, info.tasks) == ("shipped", kind, ("mt",))
    assert set(info.languages) == {"eng", "deu"} and info.license


@pytest.mark.parametrize("name", KINDS)
def test_the_card_is_that_of_the_recipe(name):
    """But for its front matter, for a recipe does not know the languages."""
    card, recipe = (
        path.read_text().partition("\n---\n")[2]
        for path in (resolve_model(name) / "README.md", ROOT / "recipes/multi30k/mt/README.md")
    )
    assert card and card == recipe, "pack the model again, or copy the card"


def test_captions_of_images_are_translated(model, pairs, capsys):
    said = [translation.text for translation in model.translate([source for source, _ in pairs])]
    assert bleu([target for _, target in pairs], said, lang="deu").value > MIN_BLEU
    assert main(["translate", "--to", "de", "--text", pairs[0][0], "-d", "cpu"]) == 0
    assert capsys.readouterr().out == f"{said[0]}\n"


@pytest.mark.parametrize(
    "text", ["A MAN IS RIDING A BICYCLE.", "A man is riding a bicycle...", "A man ... is riding a bicycle."]
)
def test_capitals_and_dots_do_not_confuse(model, text):
    said = model.translate("A man is riding a bicycle.").text
    assert model.translate(text).text == said
    stream = model.stream()
    for word in text.split():
        stream.push(word)
    assert stream.finish().text == said


def test_little_is_taken_back_while_texts_grow(model, pairs):
    stream = model.stream()
    logs = []
    for source, _ in pairs:
        for word in source.split():
            stream.push(word)
        stream.finish()
        logs.append(stream.log())
        stream.start()
    assert normalized_erasure(logs) < MAX_ERASURE


def test_drafts_change_nothing_but_the_time(pairs):
    """What the teacher says of them is what it says without, word for word, in all updates."""
    teacher = Translator.load(TEACHER, device="cpu")
    options = (
        TranslationOptions(),
        TranslationOptions(verify=True),
        TranslationOptions(draft=resolve_model(DEFAULT_MT_MODEL)),
    )
    for source, _ in pairs[:NUM_VERIFIED]:
        lines = source.split()
        plain, *drafted = ([update.text for update in teacher.live(lines, options=kind)] for kind in options)
        assert drafted == [plain, plain]
