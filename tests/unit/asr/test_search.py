"""Searches with words: what a model hears is a word of the language of the clip, where it has a list of them."""

from dataclasses import replace

import pytest
import torch

from speechnar.asr.clips import ClipDecoder
from speechnar.asr.options import DecodeOptions
from speechnar.asr.search import CtcSearch
from speechnar.decode.ctc import greedy, prefix_beam_search
from speechnar.decode.lm import WordNgram, WordRewards
from speechnar.errors import ConfigError
from speechnar.models.base import LoadedModel, load_model
from speechnar.text.words import WORDS_FOLDER, WordLists, write_words
from tests.unit.tiny import save_tiny_model, save_tiny_whisper, speechlike

LISTS = {"eng": {"cat": 1e-3}, "fra": {"car": 1e-2, "cat": 1e-6}}
HEARD = [{"Ġcat": 1.0}, {"Ġcar": 0.6, "Ġcat": 0.4}]


@pytest.fixture(scope="module")
def lists(tmp_path_factory) -> WordLists:
    folder = tmp_path_factory.mktemp("lists")
    for language, frequencies in LISTS.items():
        write_words(folder / WORDS_FOLDER / f"{language}.xz", frequencies)
    return WordLists(folder)


@pytest.fixture(scope="module")
def whisper(tmp_path_factory) -> LoadedModel:
    return load_model(save_tiny_whisper(tmp_path_factory.mktemp("models") / "whisper"))


def heard(loaded: LoadedModel, *clips: list[dict[str, float]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return posteriors of CTC: of each piece its probability, frame by frame, with blanks between them."""
    lens = [2 * len(frames) for frames in clips]
    probs = torch.full((len(clips), max(lens), loaded.tokenizer.vocab_size), 1e-9)
    probs[..., loaded.tokenizer.blank_id] = 1.0
    for row, frames in zip(probs, clips, strict=True):
        for place, pieces in enumerate(frames):
            row[2 * place, loaded.tokenizer.blank_id] = 1e-9
            for piece, prob in pieces.items():
                row[2 * place, loaded.tokenizer.id_of(piece)] = prob
    return probs.log(), torch.tensor(lens)


def texts(loaded: LoadedModel, search: CtcSearch, languages: list[str], *clips: list[dict[str, float]]) -> list[str]:
    return [loaded.tokenizer.decode(path.tokens) for path in search(*heard(loaded, *clips), languages)]


def test_each_clip_has_the_words_of_its_language(whisper, lists):
    search = ClipDecoder(replace(whisper, words=lists)).search
    languages = ["eng", "fra", "deu", "und", "eng"]
    found = texts(whisper, search, languages, HEARD, HEARD, HEARD, HEARD, HEARD[1:])
    assert found == ["cat cat", "cat car", "cat car", "cat car", "cat"]


def test_without_lists_or_weight_it_is_the_best_path(whisper, lists):
    loaded = replace(whisper, words=lists)
    for decoder in (ClipDecoder(whisper), ClipDecoder(loaded, options=DecodeOptions(word_weight=0))):
        assert decoder.search.is_greedy
        assert texts(whisper, decoder.search, ["eng"], HEARD) == ["cat car"]
    little = ClipDecoder(loaded, options=DecodeOptions(word_weight=0.01)).search
    assert texts(whisper, little, ["eng"], HEARD) == ["cat car"] and not little.is_greedy
    log_probs, lens = heard(whisper, HEARD, HEARD)
    assert little(log_probs, lens, ["deu", "und"]) == greedy(log_probs, lens, whisper.tokenizer.blank_id)


def test_words_go_with_a_beam_and_hotwords_but_not_with_a_language_model(whisper, lists, tmp_path):
    loaded = replace(whisper, words=lists)
    for options in (DecodeOptions(beam_size=4), DecodeOptions(hotwords=("好",))):
        assert texts(whisper, ClipDecoder(loaded, options=options).search, ["eng"], HEARD) == ["cat cat"]
    arpa = tmp_path / "words.arpa"
    arpa.write_text("\\data\\\nngram 1=3\n\\1-grams:\n-1\tcar\n-3\tcat\n-4\tthe\n\\end\\\n", "utf-8")
    decoder = ClipDecoder(loaded, options=DecodeOptions(lm=arpa))
    assert decoder.search.words is None
    assert texts(whisper, decoder.search, ["eng"], HEARD) == ["cat car"]
    with pytest.raises(ConfigError, match="word_weight has no effect beside lm"):
        DecodeOptions(lm=arpa, word_weight=0.5)
    with pytest.raises(ConfigError, match="word_weight must be at least 0"):
        DecodeOptions(word_weight=-1.0)


def test_what_is_without_lists_refuses_a_weight(whisper, tmp_path):
    with pytest.raises(ConfigError, match="has no lists of words; leave out word_weight"):
        ClipDecoder(whisper, options=DecodeOptions(word_weight=0.3))


def test_translations_and_other_decoders_are_left_alone(lists, tmp_path):
    loaded = replace(load_model(save_tiny_model(tmp_path / "tiny")), words=lists)
    assert ClipDecoder(loaded).search.words is lists
    assert ClipDecoder(loaded, task="st_deu").search.words is None


def test_the_languages_are_those_that_are_heard_or_told(lists, tmp_path, monkeypatch):
    loaded = replace(load_model(save_tiny_model(tmp_path / "tiny")), words=lists)
    told = []
    monkeypatch.setattr(CtcSearch, "_words_of", lambda self, language: told.append(language))
    for language in ("auto", "deu"):
        ClipDecoder(loaded, language=language).decode([speechlike(1.0)])
    assert told[0] in (*ClipDecoder(loaded).language_ids, "und") and told[1] == "deu"


def test_a_threshold_leaves_out_what_is_below_it(whisper):
    scorer = WordNgram(WordRewards({"cat": -1.0}), whisper.tokenizer.word_pieces)
    log_probs, lens = heard(whisper, [{"Ġcar": 0.99, "Ġcat": 0.01}, {",": 1.0}])
    found = []
    for least in (-float("inf"), -5.0, -4.0):
        ((best, *_),) = prefix_beam_search(
            log_probs, lens, blank_id=whisper.tokenizer.blank_id, lm=scorer, lm_weight=1.0, min_log_prob=least
        )
        found.append(whisper.tokenizer.decode(best.tokens))
    assert found == ["cat,", "cat,", "car,"]
