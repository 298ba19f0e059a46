"""Which models the page offers, and which stay in memory."""

import threading
import time
from pathlib import Path

import pytest

pytest.importorskip("gradio")

from demo.models import KEPT, Offer, Row, language_choices
from speechnar.hub import ModelInfo


def offer(**models: tuple[str, str]) -> Offer:
    return Offer(
        [
            ModelInfo(name.replace("_", "-"), kind, (task,), 1, ("en", "deu"), "", "shipped", Path("no card"))
            for name, (kind, task) in models.items()
        ]
    )


def test_the_packages_own_choice_comes_first_and_others_by_what_they_can():
    found = offer(
        a=("owsm_ctc", "asr"),
        joint_asr=("owsm_ctc", "asr"),
        b=("joint", "asr"),
        fsdd_tts=("tts", "tts"),
        ljspeech_tts=("tts", "tts"),
        band=("magnet", "generation"),
        words=("fretna_ctc", "mt"),
        late=("wait_k", "mt"),
    )
    assert found.recognizers == ["joint-asr", "a", "b"]
    assert found.comparable == ["b"], "the one with several decoders"
    assert found.voices == ["ljspeech-tts", "fsdd-tts"]
    assert found.generators == ["band"]
    assert found.translators == ["words"], "wait-k cannot take back what captions take back"
    assert found.languages("a") == ["eng", "deu"] and found.languages("typed by hand") == []


def test_a_default_recogniser_with_several_decoders_is_compared_first():
    assert offer(a=("joint", "asr"), joint_asr=("joint", "asr")).comparable == ["joint-asr", "a"]


def test_without_models_the_defaults_are_offered():
    found = offer()
    assert (found.recognizers, found.comparable, found.translators) == (["joint-asr"], ["joint-asr"], [])


def test_a_model_says_what_it_is_for():
    found = Offer()
    assert "digits" in found.about("fsdd-tts") and "English" in found.about("fsdd-tts")
    assert "Mandarin Chinese" in found.about("joint-asr")
    assert found.about("typed by hand") == "" and offer(a=("joint", "asr")).about("a") == "English, German"


def test_languages_are_named_and_sorted():
    assert language_choices(["fra", "cmn", "eng"]) == [
        ("Detect", "auto"), ("English", "eng"), ("French", "fra"), ("Mandarin Chinese", "cmn")
    ]  # fmt: skip


def test_models_load_once_and_the_last_stay():
    loads = []
    row = Row(lambda name: loads.append(name) or object())
    first = row("a")
    assert row("a") is first and loads == ["a"]
    for name in [f"other {i}" for i in range(KEPT)]:
        row(name)
    assert row("a") is not first and loads.count("a") == 2


def test_two_who_ask_at_once_get_the_same_model():
    loads, found = [], []

    def load(name):
        loads.append(name)
        time.sleep(0.05)
        return object()

    row = Row(load)
    threads = [threading.Thread(target=lambda: found.append(row("a"))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert loads == ["a"] and len(set(map(id, found))) == 1
