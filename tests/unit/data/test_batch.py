import numpy as np
import pytest
import torch

from speechnar.data.batch import Example, SpeechCollator
from speechnar.errors import DataError
from speechnar.text.tokenizer import CharTokenizer, task_specials

LETTERS = "abcdefghijklmnopqrstuvwxyz▁"


@pytest.fixture
def tokenizer():
    return CharTokenizer(("<blank>", "<unk>", *task_specials(("eng", "fra"), ("fra",)), *LETTERS))


def example(utt_id="u", samples=4, **fields):
    return Example(utt_id, np.ones(samples, dtype=np.float32), **{"asr_text": "hi", "lang": "eng", **fields})


def ids(tokenizer, *pieces):
    return [tokenizer.id_of(piece) for piece in pieces]


def test_recognition_example_has_owsm_layout(tokenizer):
    batch = SpeechCollator(tokenizer)([example()])
    assert batch.tokens.tolist() == [ids(tokenizer, "<eng>", "<asr>", "h", "i")]
    assert torch.equal(batch.asr_tokens, batch.tokens)
    assert batch.prefix.tolist() == [ids(tokenizer, "<eng>", "<asr>")]
    assert batch.prompt.tolist() == [ids(tokenizer, "<na>")]
    assert batch.tokens_valid.tolist() == batch.asr_valid.tolist() == [True]


def test_translation_keeps_the_transcript_for_the_lower_heads(tokenizer):
    batch = SpeechCollator(tokenizer)([example(translate_to="fra", translation="bon")])
    assert batch.tokens.tolist() == [ids(tokenizer, "<eng>", "<st_fra>", "b", "o", "n")]
    assert batch.asr_tokens.tolist() == [ids(tokenizer, "<eng>", "<st_fra>", "h", "i")]
    assert batch.prefix.tolist() == [ids(tokenizer, "<eng>", "<st_fra>")]


def test_hidden_language_is_hidden_in_the_prefix_only(tokenizer):
    batch = SpeechCollator(tokenizer)([example(hide_lang=True), example(lang="fra")])
    assert batch.prefix[:, 0].tolist() == ids(tokenizer, "<nolang>", "<fra>")
    assert batch.tokens[:, 0].tolist() == ids(tokenizer, "<eng>", "<fra>")


def test_text_that_is_not_available_does_not_count(tokenizer):
    batch = SpeechCollator(tokenizer)([example(asr_text="<na>", translate_to="fra", translation="bon"), example()])
    assert batch.asr_valid.tolist() == [False, True]
    assert batch.tokens_valid.tolist() == [True, True]


def test_padding_and_lengths(tokenizer):
    batch = SpeechCollator(tokenizer)([example(samples=2, prev_text="abc"), example("v", samples=3, asr_text="hello")])
    assert batch.wav.tolist() == [[1.0, 1.0, 0.0], [1.0, 1.0, 1.0]]
    assert batch.wav_lens.tolist() == [2, 3]
    assert batch.token_lens.tolist() == [4, 7]
    assert batch.tokens[0, 4:].tolist() == [tokenizer.pad_id] * 3
    assert batch.prompt_lens.tolist() == [3, 1]
    assert batch.prompt[0].tolist() == ids(tokenizer, "a", "b", "c")
    assert batch.utt_ids == ("u", "v")
    assert batch.seconds == 5 / 16000
    assert batch.to("cpu").utt_ids == batch.utt_ids


def test_plain_tokenizer_gives_plain_text():
    tokenizer = CharTokenizer(("<blank>", "<unk>", *LETTERS))
    batch = SpeechCollator(tokenizer)([example(lang=None, hide_lang=True, prev_text="abc")])
    assert batch.tokens.tolist() == [ids(tokenizer, "h", "i")]
    assert batch.prefix is None
    assert batch.prompt is None
    assert batch.prompt_lens is None


@pytest.mark.parametrize("lang", [None, "rus"])
def test_language_must_be_known(tokenizer, lang):
    with pytest.raises(DataError, match=r"'u'.*eng, fra"):
        SpeechCollator(tokenizer)([example(lang=lang)])


def test_speakers_are_named_where_they_are_known(tokenizer):
    assert SpeechCollator(tokenizer)([example(spk_id="ann"), example()]).speakers == ("ann", "")


def test_durations_are_those_of_the_tokens(tokenizer):
    collate = SpeechCollator(CharTokenizer(("<blank>", "<unk>", *LETTERS)))
    batch = collate([example(durations=(0.25, 0.5)), example("v", asr_text="hey", durations=(1.0, 0.0, 2.0))])
    assert batch.durations.tolist() == [[0.25, 0.5, 0.0], [1.0, 0.0, 2.0]]
    assert collate([example()]).durations is None
    # Language and task are not heard.
    assert SpeechCollator(tokenizer)([example(durations=(0.25, 0.5))]).durations.tolist() == [[0.0, 0.0, 0.25, 0.5]]


@pytest.mark.parametrize(("durations", "given"), [(None, "none"), ((0.1,), "1")])
def test_durations_must_be_one_for_each_token(tokenizer, durations, given):
    with pytest.raises(DataError, match=f"'u'.* each of its 2 tokens, got {given}; align"):
        SpeechCollator(tokenizer)([example("t", durations=(0.25, 0.5)), example(durations=durations)])
