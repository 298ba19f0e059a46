"""One vector for each token, read from the frames that CTC gives it."""

import pytest
import torch
from torch.nn import functional as F

from speechnar.errors import ConfigError
from speechnar.models.asr.token_acoustic_embedder import Candidates, clean, cut_posteriors, posteriors
from speechnar.nn.embedder import EncodedSpeech
from speechnar.nn.lengths import valid_mask
from tests.unit.models.asr.test_cassnat import BLANK, DIM, LENS, TINY, TOKEN_LENS, TOKENS, VOCAB, build, speech_of


@torch.no_grad()
def test_the_embedder_gives_one_vector_per_token():
    head = build()
    speech = speech_of(LENS)
    cleaned = EncodedSpeech(enc=speech.enc.nan_to_num(), lens=speech.lens, log_probs=speech.log_probs)
    found = head.embedder(cleaned, TOKENS.clamp(0, 9), TOKEN_LENS)
    assert found.embeds.shape == (4, 5, DIM)
    assert found.lens.tolist() == [5, 2, 1, 0]
    assert (found.embeds[1, 2:] == 0).all() and (found.starts[1, 2:] == 0).all() and (found.ends[1, 2:] == 0).all()
    assert (found.ends > found.starts)[valid_mask(TOKEN_LENS, 5)].all()
    free = head.embedder(cleaned)
    assert free.embeds.size(1) == int(free.lens.max())


@torch.no_grad()
def test_an_embedding_depends_on_its_segment_only():
    config = TINY.model_copy(update={"expand_left": 0, "expand_right": 0})
    head = build(config)
    speech = speech_of([12])
    labels = torch.tensor([[0, 0, 1, 0, 0, 2, 0, 0, 3, 0, 0, 0]])
    speech = EncodedSpeech(enc=speech.enc, lens=speech.lens, log_probs=F.one_hot(labels, VOCAB).float().log())
    before = head.embedder(speech).embeds
    speech.enc[0, 4] += 1.0
    after = head.embedder(speech).embeds
    changed = (after - before).abs().amax(-1)[0] > 1e-6
    assert changed.tolist() == [False, True, False]


def test_alignments_of_an_utterance_lie_side_by_side():
    candidates = Candidates.of(torch.tensor([0, 0, 2]), 3)  # two, none and one
    x = torch.arange(1.0, 13.0).view(3, 2, 2)
    packed = candidates.pack(x)
    assert packed.shape == (3, 4, 2)
    torch.testing.assert_close(packed[0], x[:2].flatten(0, 1))
    torch.testing.assert_close(packed[2, :2], x[2])
    assert (packed[1] == 1).all() and (packed[2, 2:] == 1).all()
    torch.testing.assert_close(candidates.unpack(packed), x)


def test_posteriors_are_constants_and_the_last_frame_may_be_lost():
    speech = clean(speech_of([6, 4]))
    assert not speech.enc.isnan().any()
    given = speech.log_probs.nan_to_num().requires_grad_()
    speech = EncodedSpeech(enc=speech.enc, lens=speech.lens, log_probs=given)
    assert not posteriors(speech).requires_grad
    torch.testing.assert_close(cut_posteriors(speech, BLANK, lose_last=False), given)
    lost = cut_posteriors(speech, BLANK, lose_last=True)
    torch.testing.assert_close(lost[:, :-1], given[:, :-1])
    assert (lost[:, -1].argmax(-1) == BLANK).all() and (lost[:, -1].exp().sum(-1) == 1).all()
    with pytest.raises(ConfigError, match=r"EncodedSpeech\.log_probs"):
        posteriors(EncodedSpeech(enc=speech.enc, lens=speech.lens))
