"""Whisper's decoder made parallel."""

import torch

from speechnar.nn.whisper_decoder import NUM_START_SLOTS, WhisperTokenDecoder


def make() -> WhisperTokenDecoder:
    torch.manual_seed(0)
    return WhisperTokenDecoder(16, 2, 2, 32, dropout=0.0).eval()


def inputs(num_tokens):
    x, enc = torch.randn(2, num_tokens, 16), torch.randn(2, 9, 16)
    valid = torch.ones(2, num_tokens, dtype=torch.bool)
    return x, valid, enc, torch.ones(2, 1, 1, 9, dtype=torch.bool)


@torch.no_grad()
def test_a_token_is_what_its_causal_twin_predicts_from_the_place_before():
    decoder = make()
    x, valid, enc, mask = inputs(5)
    full = torch.cat([decoder.start.expand(2, -1, -1), x], 1) + decoder.positions[: NUM_START_SLOTS + 5]
    seen = torch.ones(2, NUM_START_SLOTS + 5, dtype=torch.bool)
    both_ways = decoder.blocks(full, seen, decoder.project(enc), mask)
    found = decoder(x, valid, decoder.project(enc), mask)
    torch.testing.assert_close(found, both_ways[:, NUM_START_SLOTS - 1 : -1])
    # Behind the causal mask a place does not see what comes after it; without, it does.
    changed = full.clone()
    changed[:, -1, 0] += 1
    causal = [decoder.blocks(y, seen, decoder.project(enc), mask, causal=True) for y in (full, changed)]
    torch.testing.assert_close(causal[0][:, :-1], causal[1][:, :-1])
    assert not torch.allclose(both_ways[:, 0], decoder.blocks(changed, seen, decoder.project(enc), mask)[:, 0])


@torch.no_grad()
def test_padding_is_not_seen():
    decoder = make()
    x, valid, enc, mask = inputs(6)
    valid[1, 4:] = False
    mask[1, ..., 7:] = False
    both = decoder(x, valid, decoder.project(enc), mask)
    alone = decoder(x[1:, :4], valid[1:, :4], decoder.project(enc[1:, :7]), mask[1:, ..., :7])
    torch.testing.assert_close(both[1:, :4], alone, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_texts_longer_than_the_learned_positions_are_written():
    x, valid, enc, mask = inputs(500)
    decoder = make()
    assert decoder(x, valid, decoder.project(enc), mask).shape == (2, 500, 16)
