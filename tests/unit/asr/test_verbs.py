"""The verbs of recognition as functions."""

from speechnar import cascade
from speechnar.asr import verbs
from speechnar.asr.transcriber import Transcriber
from tests.unit.tiny import save_tiny_model, write_speechlike


def test_module_functions_load_once(tmp_path, monkeypatch):
    folder = save_tiny_model(tmp_path / "tiny")
    loads = []
    load = Transcriber.load
    monkeypatch.setattr(Transcriber, "load", lambda *args, **kwargs: loads.append(args) or load(*args, **kwargs))
    verbs.cached_transcriber.cache_clear()
    path = write_speechlike(tmp_path / "a.wav", 1.0)
    options = {"model": str(folder), "device": "cpu"}
    first = verbs.transcribe(path, **options)
    assert verbs.transcribe([path], word_timestamps=False, **options) == [first]
    assert cascade.translate(path, to="deu", **options).task == "translate"
    assert verbs.detect_language(path, **options).language == first.language
    assert verbs.align(path, "the cat", **options).text == "the cat"
    assert len(loads) == 1
