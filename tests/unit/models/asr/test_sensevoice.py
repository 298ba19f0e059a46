"""SenseVoice: what stands before the frames, and what is read there."""

import pytest
import torch

from speechnar.data.batch import Example, SpeechCollator
from speechnar.models.asr.sensevoice import (
    ANY_LANGUAGE,
    EMOTION,
    EVENT,
    SPOKEN,
    WRITTEN,
    SenseVoice,
    SenseVoiceConfig,
    SenseVoiceOutput,
)
from speechnar.text.tokenizer import CharTokenizer
from tests.contracts import check_gradients_reach_all
from tests.unit.tiny import speechlike

LABELS = ("<|en|>", "<|ko|>", "<|HAPPY|>", "<|SAD|>", "<|EMO_UNKNOWN|>", "<|BGM|>", "<|Speech_Noise|>", "<|Event_UNK|>")
TOKENIZER = CharTokenizer(("<blank>", "<unk>", *LABELS, "▁", "a", "b"))


def make_model(**changes: object) -> SenseVoice:
    torch.manual_seed(0)
    return SenseVoice(SenseVoiceConfig.debug().model_copy(update=changes), TOKENIZER)


@pytest.fixture(scope="module")
def model() -> SenseVoice:
    return make_model().eval()


def collate(texts: list[str]):
    examples = [
        Example(utt_id=str(i), wav=speechlike(0.6 + 0.4 * i, seed=i), asr_text=text) for i, text in enumerate(texts)
    ]
    return SpeechCollator(TOKENIZER)(examples)


@torch.no_grad()
def test_four_vectors_stand_before_the_frames(model):
    feats, lens = torch.randn(1, 6, 560), torch.tensor([6])
    out = model.encode_features(feats, lens, prefix=model.prefix_of("kor", plain=True))
    rows = model.queries.weight[[12, EMOTION, EVENT, SPOKEN]]
    enc, _ = model.encoder(torch.cat([rows[None], feats], dim=1), torch.tensor([10]))
    torch.testing.assert_close(torch.cat([out.label_log_probs, out.log_probs], dim=1), model.ctc(enc))
    assert out.lens.tolist() == [6]


def test_rows_are_those_of_the_published_table(model):
    assert model.prefix_of().tolist() == [[ANY_LANGUAGE, WRITTEN]]
    assert model.prefix_of("eng", plain=True).tolist() == [[4, SPOKEN]]
    assert [model.prefix_of(lang)[0, 0].item() for lang in ("zho", "eng", "yue", "jpn", "kor")] == [3, 4, 7, 11, 12]


@torch.no_grad()
def test_utterances_give_alone_what_they_give_in_a_batch(model):
    wavs = [torch.from_numpy(speechlike(seconds, seed=i)) for i, seconds in enumerate((1.0, 0.01, 0.5))]
    lens = torch.tensor([len(wav) for wav in wavs])
    batch = torch.full((3, int(lens.max())), torch.nan)
    for row, wav in zip(batch, wavs, strict=True):
        row[: len(wav)] = wav
    together = model.encode(batch, lens)
    assert together.lens.tolist() == [17, 1, 8]
    for i, wav in enumerate(wavs):
        alone = model.encode(wav[None], lens[i : i + 1])
        num = int(alone.lens)
        torch.testing.assert_close(together.log_probs[i, :num], alone.log_probs[0], atol=2e-5, rtol=1e-4)
        torch.testing.assert_close(together.label_log_probs[i], alone.label_log_probs[0], atol=2e-5, rtol=1e-4)


def labelled(*rows: dict[str, float]) -> SenseVoiceOutput:
    """Return labels of these probabilities; all others have next to none."""
    probs = torch.full((1, 4, TOKENIZER.vocab_size), 1e-6)
    for place, row in enumerate(rows):
        for piece, prob in row.items():
            probs[0, place, TOKENIZER.id_of(piece)] = prob
    return SenseVoiceOutput(log_probs=probs[:, :0].log(), lens=torch.tensor([0]), label_log_probs=probs.log())


@pytest.mark.parametrize(
    ("emotion", "event", "expected"),
    [
        ({"<|HAPPY|>": 0.6, "<|SAD|>": 0.3}, {"<|BGM|>": 0.9}, ("happy", "bgm")),
        ({"<|SAD|>": 0.6}, {"<|Speech_Noise|>": 0.9}, ("sad", "speech_noise")),
        ({"<|EMO_UNKNOWN|>": 0.6, "<|SAD|>": 0.3}, {"<|Event_UNK|>": 0.9}, (None, None)),
        ({"<blank>": 0.9, "<|BGM|>": 0.07, "<|SAD|>": 0.03}, {"a": 0.9, "<|BGM|>": 0.1}, ("sad", "bgm")),
    ],
)
def test_tags_are_the_best_labels_of_their_kind(model, emotion, event, expected):
    assert model.tags(labelled({}, emotion, event)) == [expected]


def test_languages_are_those_the_tokenizer_names(model):
    assert list(model.language_ids) == ["eng", "kor"]
    probs = model.language_probs(labelled({"<|en|>": 0.25, "<|ko|>": 0.5, "a": 0.25}))
    torch.testing.assert_close(probs, torch.tensor([[0.25, 0.5]]))


def test_without_labels_there_are_neither_languages_nor_tags():
    model = SenseVoice(SenseVoiceConfig.debug(), CharTokenizer(("<blank>", "<unk>", "a")))
    out = SenseVoiceOutput(
        log_probs=torch.zeros(2, 1, 3), lens=torch.tensor([1, 1]), label_log_probs=torch.zeros(2, 4, 3)
    )
    assert model.language_probs(out).shape == (2, 0)
    assert model.tags(out) == [(None, None)] * 2


def test_gradients_reach_every_parameter():
    model = make_model()
    loss = model.loss(collate(["ab", "b a"]))
    assert torch.isfinite(loss.total)
    assert loss.weight == 2
    check_gradients_reach_all(model, loss.total)


def test_what_has_no_transcript_does_not_count():
    model = make_model(spec_augment=None).eval()
    both, one = model.loss(collate(["ab", "<na>"])), model.loss(collate(["ab"]))
    torch.testing.assert_close(both.total, one.total, atol=1e-4, rtol=1e-4)


def test_it_learns_what_is_said():
    model = make_model(spec_augment=None)
    batch = collate(["ab", "b a"])
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(15):
        optimizer.zero_grad()
        loss = model.loss(batch).total
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 3
    assert all(isinstance(tokens, list) for tokens in model.eval().recognize(batch))
