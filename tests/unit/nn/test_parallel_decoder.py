import torch

from speechnar.nn.lengths import valid_mask, zero_padding
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
    seen = valid_mask(enc_lens, 6)
    x[0, 3:] = torch.nan
    both = decoder(x, valid_mask(lens, 5), decoder.project(zero_padding(enc, seen)), seen[:, None, None])
    for i in range(2):
        alone = decoder.project(enc[i : i + 1, : enc_lens[i]])
        size = int(lens[i])
        everything = torch.ones(1, 1, 1, int(enc_lens[i]), dtype=torch.bool)
        one = decoder(x[i : i + 1, :size], torch.ones(1, size, dtype=torch.bool), alone, everything)
        torch.testing.assert_close(both[i : i + 1, :size], one, atol=1e-5, rtol=1e-4)


def test_every_token_sees_every_other_and_gradients_reach_all():
    decoder = make()
    x = torch.randn(1, 4, 16, requires_grad=True)
    keys_values = decoder.project(torch.randn(1, 3, 16))
    states = decoder(x, torch.ones(1, 4, dtype=torch.bool), keys_values, torch.ones(1, 1, 1, 3, dtype=torch.bool))
    (grad,) = torch.autograd.grad((states[0, 0] * torch.randn(16)).sum(), x, retain_graph=True)
    assert (grad.abs().sum(-1) > 0).all()
    check_gradients_reach_all(decoder, (states * torch.randn(4, 16)).sum())
