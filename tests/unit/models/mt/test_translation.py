import torch
from torch import nn

from speechnar.models.mt.fretna import FretnaConfig
from speechnar.models.mt.translation import (
    SeenSource,
    SourceEncoder,
    SpecialIds,
    embed_tokens,
    max_lens_of,
    new_embeddings,
    new_parallel_decoder,
    rows_of,
)
from speechnar.nn.positions import sinusoids
from tests.unit.models.texts import TOKENIZER

CONFIG = FretnaConfig.debug()


def make(*, causal: bool = False) -> tuple[SourceEncoder, nn.Embedding]:
    torch.manual_seed(0)
    return SourceEncoder(CONFIG, causal=causal).eval(), new_embeddings(TOKENIZER.vocab_size, CONFIG.model_dim)


def test_embeddings_have_unit_variance_and_positions():
    torch.manual_seed(0)
    embed = new_embeddings(4000, 64)
    tokens = torch.arange(4000).view(40, 100)
    found = embed_tokens(embed, tokens, first=7)
    places = sinusoids(torch.arange(7, 107), 64)
    torch.testing.assert_close(found, embed.weight[tokens] * 8 + places)
    assert abs(float((found - places).detach().std()) - 1) < 0.01


@torch.no_grad()
def test_a_source_is_encoded_the_same_beside_any_padding():
    encoder, embed = make()
    tokens, lens = torch.tensor([[3, 4, 5, 6], [4, 3, 10**9, -5]]), torch.tensor([4, 2])
    encoded = encoder(embed, tokens, lens)
    alone = encoder(embed, tokens[1:, :2], lens[1:])
    torch.testing.assert_close(encoded.enc[1, :2], alone.enc[0], atol=1e-5, rtol=1e-4)
    assert encoded.valid.int().tolist() == [[1, 1, 1, 1], [1, 1, 0, 0]]


@torch.no_grad()
def test_a_causal_source_grows():
    encoder, embed = make(causal=True)
    tokens = torch.tensor([[3, 4, 5, 6, 7]])
    whole = encoder(embed, tokens, torch.tensor([5])).enc
    caches = encoder.new_caches()
    parts = [encoder.extend(embed, tokens[:, first:end], caches, first) for first, end in ((0, 2), (2, 3), (3, 5))]
    torch.testing.assert_close(torch.cat(parts, dim=1), whole, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_layers_see_projected_sources_without_padding():
    encoder, embed = make()
    decoder = new_parallel_decoder(CONFIG).eval()
    encoded = encoder(embed, torch.tensor([[3, 4, 5], [4, 3, 0]]), torch.tensor([3, 2]))
    seen = SeenSource.of(decoder, encoded)
    assert seen.mask.int().tolist() == [[[[1, 1, 1]]], [[[1, 1, 0]]]]
    weight, bias = decoder.key_value.weight, decoder.key_value.bias
    for row, length in ((0, 3), (1, 2)):
        flat = encoded.enc[row, :length] @ weight.T + bias
        wanted = flat.view(length, 2, 2, 2, 16).permute(1, 2, 3, 0, 4)  # layers, keys and values, heads
        torch.testing.assert_close(seen.keys_values[:, :, row, :, :length], wanted, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(seen.keys_values[:, :, 1, :, 2], bias.view(2, 2, 2, 16))  # of a frame of zeros


def test_no_translation_holds_a_special_but_the_end():
    ids = SpecialIds(TOKENIZER)
    names = ("<blank>", "<sos>", "<eos>", "<sop>")
    assert (ids.blank, ids.sos, ids.eos, ids.placeholder) == tuple(TOKENIZER.id_of(name) for name in names)
    assert {TOKENIZER.pieces[i] for i in ids.never} == {"<blank>", "<unk>", "<sop>", "<sos>"}


def test_translations_are_cut_off_at_a_ratio_but_ten_tokens_are_allowed():
    assert max_lens_of(torch.tensor([1, 5, 6, 7]), 2.0).tolist() == [10, 10, 12, 14]
    assert max_lens_of(torch.tensor([9, 100]), 1.3).tolist() == [11, 130]


def test_rows_without_padding():
    assert rows_of(torch.tensor([[1, 2, 3], [4, 0, 0]]), torch.tensor([3, 1])) == [[1, 2, 3], [4]]
    assert rows_of(torch.tensor([[1]]), torch.tensor([0])) == [[]]
