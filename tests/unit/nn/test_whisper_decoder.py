"""Whisper's decoder as it is, and made parallel."""

import torch

from speechnar.nn.whisper_decoder import NUM_START_SLOTS, WhisperCausalDecoder, WhisperTokenDecoder
from tests.contracts import check_gradients_reach_all


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


VOCAB = 11


def make_causal() -> WhisperCausalDecoder:
    torch.manual_seed(0)
    return WhisperCausalDecoder(VOCAB, 16, 2, 2, 32, dropout=0.0).eval()


def states(lens):
    valid = torch.arange(max(lens)) < torch.tensor(lens)[:, None]
    return torch.randn(len(lens), max(lens), 16), valid


@torch.no_grad()
def test_cached_steps_equal_the_whole_text_behind_its_start_slots():
    decoder = make_causal()
    tokens = torch.randint(VOCAB, (3, 70))
    memory = decoder.project(*states([9, 4, 7]))
    whole = decoder(tokens, memory)
    assert whole.shape == (3, 70, VOCAB)
    caches = decoder.new_caches()
    for i in range(70):
        torch.testing.assert_close(decoder(tokens[:, i : i + 1], memory, caches)[:, 0], whole[:, i])
    assert caches[0].length == NUM_START_SLOTS + 69, "the slots stand in for the first token"
    other = torch.cat([(tokens[:, :1] + 1) % VOCAB, tokens[:, 1:]], 1)
    torch.testing.assert_close(decoder(other, memory), whole)


@torch.no_grad()
def test_a_text_may_go_on_beyond_the_learned_positions():
    decoder = make_causal()
    tokens, memory = torch.randint(VOCAB, (1, 460)), decoder.project(*states([5]))
    whole, caches = decoder(tokens, memory), decoder.new_caches()
    pieces = [decoder(piece, memory, caches) for piece in tokens.split(200, dim=1)]
    torch.testing.assert_close(torch.cat(pieces, 1), whole)


def test_gradients_reach_slots_positions_and_the_tied_table():
    decoder = make_causal().train()
    logits = decoder(torch.randint(VOCAB, (2, 450)), decoder.project(*states([7, 9])))
    check_gradients_reach_all(decoder, logits.square().mean())
    assert decoder.positions.grad.abs().sum(1).all()
