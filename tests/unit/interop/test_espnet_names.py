"""What ESPnet calls the tensors of a model."""

import pytest
import torch

from speechnar.interop.espnet_names import MODULE_NAMES, destination_of, map_state


def test_decoder_is_skipped_on_request_only():
    state = {"decoder.embed.weight": torch.ones(2), "ctc.ctc_lo.bias": torch.ones(3, dtype=torch.float16)}
    mapped, keys = map_state(state, skip_decoder=True)
    assert list(mapped) == ["ctc.proj.bias"]
    assert mapped["ctc.proj.bias"].dtype == torch.float32
    assert [key.destination for key in keys] == [None, "ctc.proj.bias"]


@pytest.mark.parametrize(
    ("key", "ours"),
    [
        ("encoder.encoders.12.conv_module.norm.running_var", "encoder.layers.12.conv.norm.running_var"),
        ("encoder.encoders.0.self_attn.pos_bias_u", "encoder.layers.0.attention.content_bias"),
        ("encoder.embed.out.0.bias", "encoder.subsampling.proj.bias"),
        ("encoder.encoders.0.attn.linear_q.scale", None),
        ("encoder.layers.0.norm_ff.bias", None),
        ("", None),
    ],
)
def test_names(key, ours):
    assert destination_of(key) == ours


def test_no_two_modules_share_a_name_but_for_those_of_different_encoders():
    twice = (".self_attn.", "embed.out.0", "encoder.encoders.*.norm1", "encoder.encoders.*.norm2")
    encoders = {key: name for key, name in MODULE_NAMES.items() if not key.startswith(("prompt", "decoder"))}
    names = [name for key, name in encoders.items() if not any(part in key for part in twice)]
    assert len(set(names)) == len(names)
