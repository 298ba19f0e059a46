"""What every encoder must satisfy; a new layer's first test is one call."""

import torch
from torch import Tensor, nn

from speechnar.nn.context import Chunking
from speechnar.nn.encoder import Encoder
from speechnar.nn.lengths import valid_mask


def check_padding_contract(encoder: Encoder, feats: Tensor, feat_lens: Tensor, **kwargs: object) -> None:
    """Every utterance must encode the same alone, in a batch, and next to NaN padding."""
    padding = ~valid_mask(feat_lens, feats.size(1))[..., None]
    batch, batch_lens = encoder(feats.masked_fill(padding, torch.nan), feat_lens, **kwargs)
    for i, num_frames in enumerate(feat_lens.tolist()):
        alone, alone_lens = encoder(feats[i : i + 1, :num_frames], feat_lens[i : i + 1], **kwargs)
        num_out = int(alone_lens)
        assert batch_lens[i] == num_out
        assert alone.size(1) == num_out
        torch.testing.assert_close(batch[i, :num_out], alone[0, :num_out], atol=2e-5, rtol=1e-4)


def check_gradients_reach_all(module: nn.Module, loss: Tensor, *, except_for: tuple[str, ...] = ()) -> None:
    """Every parameter must receive a finite gradient, and one that is not zero everywhere."""
    loss.backward()
    for name, parameter in module.named_parameters():
        if name in except_for:
            continue
        assert parameter.grad is not None, f"{name} has no gradient"
        assert parameter.grad.isfinite().all(), f"{name} has a gradient that is not finite"
        assert parameter.grad.abs().sum() > 0, f"{name} has a zero gradient"


def check_stream_equals_whole(
    encoder: Encoder, feats: Tensor, chunking: Chunking, sizes: list[int], **kwargs: Tensor
) -> None:
    """Features pushed in pieces of any ``sizes`` must encode as they do whole under the same chunking."""
    whole, whole_lens = encoder(feats, torch.tensor([feats.size(1)] * feats.size(0)), chunking=chunking, **kwargs)
    stream = encoder.stream(chunking, **kwargs)
    pieces, start = [], 0
    for size in sizes:
        pieces += list(stream.push(feats[:, start : start + size]))
        start += size
    pieces += list(stream.push(feats[:, start:]))
    pieces += list(stream.finish())
    streamed = torch.cat(pieces, dim=1)
    assert streamed.size(1) == int(whole_lens[0])
    torch.testing.assert_close(streamed, whole, atol=2e-5, rtol=1e-4)
