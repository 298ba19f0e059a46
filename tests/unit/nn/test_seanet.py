import pytest
import torch
from torch import nn

from speechnar.errors import ConfigError
from speechnar.nn.lengths import valid_mask
from speechnar.nn.seanet import SeanetDecoder, SeanetEncoder, hop_length
from tests.contracts import check_gradients_reach_all

RATIOS = (4, 3, 2)
SIZES = {"latent_dim": 6, "num_filters": 4, "num_residual_layers": 2, "lstm_layers": 1}


def make(kind, **changes):
    torch.manual_seed(0)
    return kind(RATIOS, **{**SIZES, **changes}).eval()


@pytest.mark.parametrize("lstm_layers", [0, 2])
@torch.no_grad()
def test_an_utterance_is_coded_alone_as_in_a_batch(lstm_layers):
    encoder, decoder = make(SeanetEncoder, lstm_layers=lstm_layers), make(SeanetDecoder, lstm_layers=lstm_layers)
    lens = torch.tensor([240, 151, 24, 1])
    wav = torch.randn(4, 240).masked_fill(~valid_mask(lens, 240), torch.nan)
    latents, latent_lens = encoder(wav, lens)
    assert latents.shape == (4, 10, 6)
    assert latent_lens.tolist() == [10, 7, 1, 1]
    padding = ~valid_mask(latent_lens, 10)[..., None]
    made, made_lens = decoder(latents.masked_fill(padding, torch.nan), latent_lens)
    assert made.shape == (4, 240)
    assert made_lens.tolist() == [240, 168, 24, 24]
    for i, num_samples in enumerate(lens.tolist()):
        alone, none = encoder(wav[i : i + 1, :num_samples])
        assert none is None
        torch.testing.assert_close(latents[i, : alone.size(1)], alone[0], atol=1e-5, rtol=1e-4)
        back, _ = decoder(alone)
        assert back.size(1) == made_lens[i]
        torch.testing.assert_close(made[i, : back.size(1)], back[0], atol=1e-5, rtol=1e-4)
        assert not latents[i, alone.size(1) :].any()
        assert not made[i, back.size(1) :].any()


@torch.no_grad()
def test_a_frame_stands_for_the_samples_it_is_made_into():
    """Latents change only near the samples that change, and samples only near the latents that do."""
    encoder, decoder = make(SeanetEncoder, lstm_layers=0), make(SeanetDecoder, lstm_layers=0)
    hop = hop_length(RATIOS)
    wav = torch.randn(1, 40 * hop)
    changed = wav.clone()
    changed[:, 20 * hop : 21 * hop] += 1
    moved = (encoder(wav)[0] - encoder(changed)[0]).abs().sum((0, 2)).nonzero().flatten()
    assert 20 in moved
    assert moved.min() >= 14
    assert moved.max() <= 26
    latents = torch.randn(1, 40, 6)
    other = latents.clone()
    other[:, 20] += 1
    moved = (decoder(latents)[0] - decoder(other)[0]).abs().flatten().nonzero().flatten()
    assert moved.min() >= 14 * hop
    assert moved.max() < 27 * hop
    assert moved.min() < 20 * hop < 21 * hop <= moved.max()


def test_gradients_reach_every_parameter():
    both = nn.Sequential(make(SeanetEncoder), make(SeanetDecoder))
    wav = torch.randn(2, 100)
    latents, lens = both[0](wav, torch.tensor([100, 77]))
    made, _ = both[1](latents, lens)
    check_gradients_reach_all(both, made.square().mean())


def test_there_is_a_ratio():
    with pytest.raises(ConfigError, match=r"ratios must be at least one number, each 1 or more; got \[2, 0\]"):
        SeanetEncoder((2, 0), latent_dim=4, num_filters=2)
