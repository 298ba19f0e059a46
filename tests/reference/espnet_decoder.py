"""ESPnet's Transformer decoder and beam search with random weights, and the same weights in ours."""

from typing import Any

import torch
from torch import Tensor

from speechnar.models.asr.transformer_ar import TransformerArHead, TransformerArHeadConfig

LAYER_NAMES = {
    "norm1": "norm_attention",
    "self_attn.linear_out": "attention.out",
    "norm2": "norm_cross",
    "src_attn.linear_q": "cross_attention.query",
    "src_attn.linear_out": "cross_attention.out",
    "norm3": "ff.0",
    "feed_forward.w_1": "ff.1",
    "feed_forward.w_2": "ff.4",
}
FUSED_NAMES = {
    "attention.qkv": ("self_attn.linear_q", "self_attn.linear_k", "self_attn.linear_v"),
    "cross_attention.key_value": ("src_attn.linear_k", "src_attn.linear_v"),
}


def build_decoder(vocab_size: int, dim: int, *, num_layers: int, num_heads: int, ff_dim: int) -> Any:
    """Return ESPnet's decoder; `import_espnet` comes first."""
    from espnet2.asr.decoder.transformer_decoder import TransformerDecoder

    return TransformerDecoder(
        vocab_size,
        dim,
        attention_heads=num_heads,
        linear_units=ff_dim,
        num_blocks=num_layers,
        use_flash_attn=False,
    ).eval()


def copy_to_ours(decoder: Any, *, num_heads: int) -> TransformerArHead:
    """Return our head with the weights of ESPnet's; the last token begins and ends sentences, as there."""
    vocab_size, dim = decoder.embed[0].weight.shape
    state = decoder.state_dict()
    config = TransformerArHeadConfig(
        num_layers=len(decoder.decoders),
        num_heads=num_heads,
        ff_dim=decoder.decoders[0].feed_forward.w_1.out_features,
        norm_eps=1e-12,
    )
    last = vocab_size - 1
    head = TransformerArHead(config, dim, vocab_size=vocab_size, sos_id=last, eos_id=last, blank_id=0)
    ours = {"embed.weight": state["embed.0.weight"]}
    for part in ("weight", "bias"):
        ours[f"norm.{part}"] = state[f"after_norm.{part}"]
        ours[f"output.{part}"] = state[f"output_layer.{part}"]
        for i in range(config.num_layers):
            for theirs, name in LAYER_NAMES.items():
                ours[f"layers.{i}.{name}.{part}"] = state[f"decoders.{i}.{theirs}.{part}"]
            for name, sources in FUSED_NAMES.items():
                ours[f"layers.{i}.{name}.{part}"] = torch.cat([state[f"decoders.{i}.{s}.{part}"] for s in sources])
    head.decoder.load_state_dict(ours)
    return head.eval()


class GivenCtc(torch.nn.Module):
    """Stands for ESPnet's CTC module where the posteriors are known already."""

    def __init__(self, log_probs: Tensor) -> None:
        super().__init__()
        self.log_probs = log_probs

    def log_softmax(self, enc: Tensor) -> Tensor:
        """Return a copy, (1, T, V); ESPnet's scorer writes into it."""
        assert enc.shape[:2] == self.log_probs.shape[:2]
        return self.log_probs.clone()


def build_search(decoder: Any, ctc: Any, *, beam_size: int, ctc_weight: float) -> Any:
    """Return ESPnet's search as its ``Speech2Text`` builds it."""
    from espnet.nets.batch_beam_search import BatchBeamSearch
    from espnet.nets.scorers.ctc import CTCPrefixScorer

    vocab_size = decoder.embed[0].num_embeddings
    return BatchBeamSearch(
        beam_size=beam_size,
        weights={"decoder": 1.0 - ctc_weight, "ctc": ctc_weight},
        scorers={"decoder": decoder, "ctc": CTCPrefixScorer(ctc, vocab_size - 1)},
        sos=vocab_size - 1,
        eos=vocab_size - 1,
        vocab_size=vocab_size,
        pre_beam_score_key="full",
    ).eval()
