"""One encoder for frames and tokens: its second and later passes. What it shares with CASS-NAT: test_cassnat_models."""

import math

import pytest
import torch

from speechnar.decode.esa import sample_segments
from speechnar.models.asr.token_acoustic_embedder import Candidates, posteriors
from speechnar.nn.embedder import EncodedSpeech
from tests.unit.models.asr.test_cassnat_models import build, make_batch


@torch.no_grad()
def test_second_pass_equals_one_over_frames_and_embeddings_side_by_side():
    model, batch = build("unienc"), make_batch([0])
    out = model.encode(batch.wav, batch.wav_lens)
    segments = sample_segments(out.log_probs, out.lens, 0, num_alignments=1).segments
    second = model.second_pass(out.frames, out.speech, segments)
    embeds = model.embedder.embed_slots(out.speech, segments)
    side_by_side = torch.cat([out.frames, embeds], dim=1)
    enc = model.trunk.encoder.run(side_by_side, torch.ones(side_by_side.shape[:2], dtype=torch.bool))
    num_frames = out.frames.size(1)
    torch.testing.assert_close(second.enc, enc[:, :num_frames])
    torch.testing.assert_close(second.slots, enc[:, num_frames:])
    assert not torch.allclose(second.enc, out.enc, atol=0.1)


@torch.no_grad()
def test_alignments_of_an_utterance_share_its_frames():
    model, batch = build("unienc"), make_batch()
    out = model.encode(batch.wav, batch.wav_lens)
    sampled = sample_segments(out.log_probs, out.lens, 0, num_alignments=9, threshold=1.0)
    index = sampled.utterance_index
    assert len(index) > 9
    copied = EncodedSpeech(enc=out.enc[index], lens=out.lens[index], log_probs=out.log_probs[index])
    apart = model.second_pass(out.frames[index], copied, sampled.segments)
    shared = model.second_pass(out.frames[index], out.speech, sampled.segments, Candidates.of(index, 3))
    for row, count in enumerate(sampled.segments.slot_lens.tolist()):
        torch.testing.assert_close(shared.slots[row, :count], apart.slots[row, :count], atol=2e-5, rtol=1e-4)
        torch.testing.assert_close(shared.enc[row], apart.enc[row], atol=2e-5, rtol=1e-4)


@torch.no_grad()
def test_later_passes_cut_by_the_posteriors_of_the_pass_before():
    model, batch = build("unienc"), make_batch()
    out = model.encode(batch.wav, batch.wav_lens)
    thrice = model.decode(out, num_passes=3)
    assert thrice != model.decode(out)
    segments = sample_segments(out.log_probs, out.lens, 0, num_alignments=1).segments
    second = model.second_pass(out.frames, out.speech, segments)
    again = EncodedSpeech(enc=second.enc, lens=out.lens, log_probs=model.trunk.ctc(second.enc))
    last_segments = sample_segments(posteriors(again), again.lens, 0, num_alignments=1).segments
    log_probs = model.slot_log_probs(model.second_pass(out.frames, again, last_segments).slots)
    first = last_segments.slot_lens[0]
    scores = log_probs[0, :first].index_fill(1, torch.tensor([0, 1]), -math.inf).max(-1).values
    assert thrice[0].scores == pytest.approx(scores[: len(thrice[0].scores)].tolist(), abs=1e-4)
    options = {"num_passes": 3, "num_alignments": 4, "later_alignments": 2, "threshold": 0.95}
    sampled = model.decode(out, **options)
    for row, path in enumerate(sampled):
        alone = make_batch([row])
        assert model.decode(model.encode(alone.wav, alone.wav_lens), **options)[0].tokens == path.tokens
