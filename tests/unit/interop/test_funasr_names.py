"""What FunASR calls the tensors of a model."""

import pytest
import torch

from speechnar.interop.funasr_names import destination_of, map_state, module_names


@pytest.mark.parametrize(
    ("key", "ours"),
    [
        ("encoder.encoders0.0.self_attn.fsmn_block.weight", "encoder.layers.0.fsmn.weight"),
        ("encoder.encoders.48.norm2.bias", "encoder.layers.49.ff.0.bias"),
        ("encoder.encoders0.1.norm1.bias", None),
        ("decoder.decoders.15.src_attn.linear_k_v.weight", "head.decoder.key_value[15].weight"),
        ("decoder.decoders3.0.feed_forward.norm.weight", "head.decoder.ff_last.norm.weight"),
        ("predictor.blstm.weight_hh_l0_reverse", "head.timestamps.blstm.weight_hh_l0_reverse"),
        ("bias_encoder.bias_ih_l1", "bias.encoder.bias_ih_l1"),
        ("decoder.embed.1.weight", None),
        ("", None),
    ],
)
def test_names(key, ours):
    assert destination_of(key, module_names()) == ours


def test_keys_and_values_of_transformer_layers_alternate():
    names = module_names(transformer=True)
    state = {
        f"decoder.decoders.{layer}.src_attn.linear_{kind}.bias": torch.tensor([10.0 * layer + i], dtype=torch.float16)
        for layer in (1, 10, 0)
        for i, kind in enumerate("vk")
    } | {
        f"decoder.decoders.{layer}.src_attn.linear_{kind}.bias": torch.tensor([10.0 * layer])
        for layer in range(2, 10)
        for kind in "kv"
    }
    mapped, keys = map_state(state, names)
    assert mapped["head.decoder.key_value.bias"].tolist()[:6] == [1, 0, 11, 10, 20, 20]
    assert mapped["head.decoder.key_value.bias"].tolist()[-2:] == [101, 100]
    assert keys[0].destination == "head.decoder.key_value[1.1].bias"
