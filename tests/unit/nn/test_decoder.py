import pytest
import torch

from speechnar.errors import ConfigError
from speechnar.nn.decoder import DecoderMemory, KeyValueCache, TransformerDecoder
from speechnar.nn.lengths import valid_mask
from tests.contracts import check_gradients_reach_all

VOCAB, DIM = 11, 16


def make_decoder(feed_forward="relu", num_layers=2):
    torch.manual_seed(0)
    return TransformerDecoder(
        VOCAB,
        DIM,
        num_layers,
        4,
        32,
        feed_forward=feed_forward,
        dropout=0.1,
        attention_dropout=0.0,
        norm_eps=1e-5,
    ).eval()


def speech(lens, seed=0):
    generator = torch.Generator().manual_seed(seed)
    lens = torch.tensor(lens)
    valid = valid_mask(lens, int(lens.max()))
    return torch.randn(len(lens), int(lens.max()), DIM, generator=generator), valid


def random_tokens(*shape):
    return torch.randint(VOCAB, shape, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("feed_forward", ["relu", "gelu", "swiglu"])
@torch.no_grad()
def test_cached_steps_equal_the_whole(feed_forward):
    decoder = make_decoder(feed_forward)
    tokens = random_tokens(3, 70)  # beyond the first growth of the buffer
    memory = decoder.project(*speech([9, 4, 7]))
    whole = decoder(tokens, memory)
    caches = decoder.new_caches()
    for i in range(tokens.size(1)):
        torch.testing.assert_close(decoder(tokens[:, i : i + 1], memory, caches)[:, 0], whole[:, i])


@torch.no_grad()
def test_several_tokens_behind_a_cache_equal_the_whole():
    decoder = make_decoder()
    tokens = random_tokens(2, 12)
    memory = decoder.project(*speech([5, 8]))
    caches = decoder.new_caches()
    pieces = [decoder(piece, memory, caches) for piece in tokens.split([4, 1, 5, 2], dim=1)]
    torch.testing.assert_close(torch.cat(pieces, 1), decoder(tokens, memory))


@torch.no_grad()
def test_a_truncated_cache_has_forgotten_the_draft():
    decoder = make_decoder()
    tokens, draft = random_tokens(2, 9), random_tokens(2, 5).flip(1)
    memory = decoder.project(*speech([5, 8]))
    caches = decoder.new_caches()
    decoder(tokens[:, :4], memory, caches)
    decoder(draft, memory, caches)
    for cache in caches:
        cache.truncate(4)
    torch.testing.assert_close(decoder(tokens[:, 4:], memory, caches), decoder(tokens, memory)[:, 4:])


@torch.no_grad()
def test_reordered_hypotheses_carry_their_past():
    decoder = make_decoder()
    tokens = random_tokens(4, 6)
    memory = decoder.project(*speech([6, 9]))  # two hypotheses each
    caches = decoder.new_caches()
    decoder(tokens[:, :5], memory, caches)
    rows = torch.tensor([1, 1, 3, 2])
    for cache in caches:
        cache.reorder(rows)
    history = torch.cat([tokens[rows, :5], tokens[:, 5:]], 1)
    torch.testing.assert_close(decoder(tokens[:, 5:], memory, caches)[:, 0], decoder(history, memory)[:, 5])


def test_the_cache_returns_what_it_was_given():
    cache = KeyValueCache()
    keys, values = torch.randn(2, 40, 3, 5), torch.randn(2, 40, 3, 5)
    for start in range(0, 40, 8):
        all_keys, all_values = cache.append(keys[:, start : start + 8], values[:, start : start + 8])
    assert cache.length == 40
    torch.testing.assert_close(all_keys, keys.transpose(1, 2), rtol=0, atol=0)
    torch.testing.assert_close(all_values, values.transpose(1, 2), rtol=0, atol=0)


@torch.no_grad()
def test_an_utterance_decodes_the_same_alone_and_beside_nan_padding():
    decoder = make_decoder()
    enc, valid = speech([9, 3, 1])
    tokens = random_tokens(3, 5)
    batch = decoder(tokens, decoder.project(enc.masked_fill(~valid[..., None], torch.nan), valid))
    for i, num_frames in enumerate(valid.sum(1).tolist()):
        memory = decoder.project(enc[i : i + 1, :num_frames], valid[i : i + 1, :num_frames])
        torch.testing.assert_close(batch[i], decoder(tokens[i : i + 1], memory)[0])


@torch.no_grad()
def test_hypotheses_find_their_utterance_in_any_order():
    decoder = make_decoder()
    enc, valid = speech([9, 5, 7])
    tokens = random_tokens(5, 4)
    utterances = torch.tensor([2, 0, 2, 2, 0])
    memory = decoder.project(enc, valid)
    memory = DecoderMemory(
        keys=memory.keys,
        values=memory.values,
        mask=memory.mask,
        places=torch.tensor([6, 0, 7, 8, 1]),
        num_places=3,
    )
    expected = decoder(tokens, decoder.project(enc[utterances], valid[utterances]))
    torch.testing.assert_close(decoder(tokens, memory), expected)


def test_a_token_sees_neither_later_ones_nor_padding():
    decoder = make_decoder()
    enc, valid = speech([4, 2])
    embeds = decoder.embed(random_tokens(2, 6)).detach().requires_grad_()
    enc.requires_grad_()
    decoder.embed.register_forward_hook(lambda *_: embeds)
    decoder(random_tokens(2, 6), decoder.project(enc, valid))[:, 2].sum().backward()
    assert (embeds.grad[:, :3].abs().sum(-1) > 0).all() and not embeds.grad[:, 3:].any()
    assert (enc.grad.abs().sum(-1) > 0).equal(valid)


@pytest.mark.parametrize("feed_forward", ["relu", "gelu", "swiglu"])
def test_gradients_reach_all(feed_forward):
    decoder = make_decoder(feed_forward).train()
    logits = decoder(random_tokens(2, 40), decoder.project(*speech([7, 9])))
    check_gradients_reach_all(decoder, logits.square().mean())


def test_heads_must_divide_the_width():
    with pytest.raises(ConfigError, match="multiple of num_heads"):
        TransformerDecoder(5, 10, 1, 4, 8, feed_forward="relu", dropout=0, attention_dropout=0, norm_eps=1e-5)
