import torch

from speechnar.nn.context import BlockContext
from speechnar.nn.transformer import TransformerBlock, TransformerEncoder


def make(*, causal):
    torch.manual_seed(0)
    return TransformerEncoder(16, 2, 2, 32, dropout=0.0, norm_eps=1e-5, causal=causal).eval()


@torch.no_grad()
def test_a_causal_token_sees_none_behind_it():
    x = torch.randn(1, 6, 16, generator=torch.Generator().manual_seed(1))
    changed = x.clone()
    changed[:, 4, 0] += 1
    lens = torch.tensor([6])
    for causal in (True, False):
        encoder = make(causal=causal)
        is_same = (encoder(x, lens) - encoder(changed, lens)).abs().amax(-1)[0] < 1e-6
        assert is_same.tolist() == ([True] * 4 + [False] * 2 if causal else [False] * 6)


@torch.no_grad()
def test_caches_let_a_causal_encoder_go_on():
    encoder = make(causal=True)
    x = torch.randn(1, 7, 16)
    whole = encoder(x, torch.tensor([7]))
    caches = encoder.new_caches()
    parts = [encoder(part, torch.tensor([part.size(1)]), caches) for part in x.split([1, 4, 2], dim=1)]
    torch.testing.assert_close(torch.cat(parts, 1), whole, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_sequences_do_not_depend_on_their_batch():
    for causal in (True, False):
        encoder = make(causal=causal)
        x = torch.randn(2, 5, 16)
        both = encoder(x, torch.tensor([5, 3]))
        torch.testing.assert_close(both[1:, :3], encoder(x[1:, :3], torch.tensor([3])), atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_an_adapter_adds_to_what_leaves_the_layer():
    torch.manual_seed(0)
    options = {"dropout": 0.0, "norm_eps": 1e-5, "attention_dropout": 0.0}
    block = TransformerBlock(16, 2, 32, adapter_dim=4, **options).eval()
    plain = TransformerBlock(16, 2, 32, **options).eval()
    plain.load_state_dict({k: v for k, v in block.state_dict().items() if not k.startswith("adapter.")})
    x = torch.randn(1, 5, 16)
    context = BlockContext(valid=torch.ones(1, 5, dtype=torch.bool), attn_mask=None)
    y, (norm, down, _, _, up, _) = plain(x, context), block.adapter
    torch.testing.assert_close(block(x, context), y + up(down(norm(y)).relu()))
