"""Our autoregressive decoder and beam search against ESPnet's on the same random weights."""

import pytest
import torch

from speechnar.nn.embedder import EncodedSpeech
from speechnar.nn.lengths import valid_mask, zero_padding
from tests.reference.espnet_decoder import GivenCtc, build_decoder, build_search, copy_to_ours
from tests.reference.espnet_models import import_espnet

pytestmark = pytest.mark.slow

VOCAB, DIM, HEADS = 60, 64, 4


@pytest.fixture(scope="module")
def decoder(tmp_path_factory):
    import_espnet(tmp_path_factory.mktemp("espnet"), "asr")
    torch.manual_seed(0)
    decoder = build_decoder(VOCAB, DIM, num_layers=3, num_heads=HEADS, ff_dim=128)
    with torch.no_grad():
        decoder.output_layer.weight.mul_(3.0)  # clear preferences, so that rounding decides nothing
        decoder.embed[0].weight.mul_(0.3)
        # ESPnet lets the blank take the place of a candidate; a trained decoder never proposes it.
        decoder.output_layer.bias[0] -= 30.0
    return decoder


def make_speech(lens, seed):
    generator = torch.Generator().manual_seed(seed)
    lens = torch.tensor(lens)
    num_frames = int(lens.max())
    enc = zero_padding(torch.randn(len(lens), num_frames, DIM, generator=generator), valid_mask(lens, num_frames))
    log_probs = torch.randn(len(lens), num_frames, VOCAB, generator=generator).mul(2.0)
    log_probs[..., 0] += 4.0
    return EncodedSpeech(enc=enc, lens=lens, log_probs=log_probs.log_softmax(-1))


@torch.no_grad()
def test_logits_agree(decoder):
    head = copy_to_ours(decoder, num_heads=HEADS)
    speech = make_speech([30, 17, 5], seed=1)
    tokens = torch.randint(VOCAB, (3, 12))
    theirs, _ = decoder(speech.enc, speech.lens, tokens, torch.full((3,), 12))
    ours = head.decoder(tokens, head.decoder.project(speech.enc, speech.valid))
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=0.0)


@pytest.mark.parametrize("ctc_weight", [0.3, 0.5, 0.9])
@torch.no_grad()
def test_beam_searches_agree(decoder, ctc_weight):
    head = copy_to_ours(decoder, num_heads=HEADS)
    lens = [40, 23, 31, 9, 60, 12]
    speech = make_speech(lens, seed=2)
    ours = head.decode(speech, beam_size=10, ctc_weight=ctc_weight)
    assert sum(len(path.tokens) > 2 for path in ours) >= 4
    for b, num_frames in enumerate(lens):
        search = build_search(
            decoder, GivenCtc(speech.log_probs[b : b + 1, :num_frames]), beam_size=10, ctc_weight=ctc_weight
        )
        best = search(speech.enc[b, :num_frames])[0]
        assert ours[b].tokens == best.yseq[1:-1].tolist()
        assert ours[b].total == pytest.approx(float(best.score), abs=1e-3)
