import torch

from speechnar.nn.lengths import valid_mask
from speechnar.nn.parallel_decoder import ParallelDecoder
from tests.contracts import check_gradients_reach_all


def make():
    torch.manual_seed(0)
    return ParallelDecoder(16, 2, 2, 32, dropout=0.0, attention_dropout=0.0, norm_eps=1e-5).eval()


@torch.no_grad()
def test_sentences_do_not_depend_on_their_batch_or_its_padding():
    decoder = make()
    x, lens = torch.randn(2, 5, 16), torch.tensor([3, 5])
    enc, enc_lens = torch.randn(2, 6, 16), torch.tensor([6, 2])
    valid = valid_mask(enc_lens, 6)
    memory = decoder.project(enc.masked_fill(~valid[..., None], torch.nan), valid)
    both = decoder(x, lens, memory)
    for i in range(2):
        alone = decoder.project(enc[i : i + 1, : enc_lens[i]], valid[i : i + 1, : enc_lens[i]])
        one = decoder(x[i : i + 1, : lens[i]], lens[i : i + 1], alone)
        torch.testing.assert_close(both[i : i + 1, : lens[i]], one, atol=1e-5, rtol=1e-4)


def test_every_token_sees_every_other_and_gradients_reach_all():
    decoder = make()
    x = torch.randn(1, 4, 16, requires_grad=True)
    memory = decoder.project(torch.randn(1, 3, 16), torch.ones(1, 3, dtype=torch.bool))
    states = decoder(x, torch.tensor([4]), memory)
    (grad,) = torch.autograd.grad((states[0, 0] * torch.randn(16)).sum(), x, retain_graph=True)
    assert (grad.abs().sum(-1) > 0).all()
    check_gradients_reach_all(decoder, (states * torch.randn(4, 16)).sum())
