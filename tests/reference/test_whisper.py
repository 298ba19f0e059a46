"""Whisper here and in transformers: the encoder and the decoder, on random weights and, where they are, on real ones.

Real weights are found through ``SPEECHNAR_WHISPER``, a folder that `convert_whisper` reads.
"""

import os
from pathlib import Path

import pytest
import torch

from speechnar.audio.cmvn import PeakRange
from speechnar.audio.fbank import LogMel, LogMelConfig
from speechnar.interop.whisper import convert_whisper
from speechnar.models.base import load_model
from tests.unit.interop.test_whisper import openai_state, write_folder
from tests.unit.tiny import speechlike

pytestmark = pytest.mark.slow


@torch.no_grad()
def test_encoder_and_decoder_agree_on_random_weights(tmp_path):
    transformers = pytest.importorskip("transformers", reason="needs transformers, of the extra t5")
    config = transformers.WhisperConfig(
        vocab_size=280,
        num_mel_bins=20,
        d_model=32,
        encoder_layers=2,
        decoder_layers=2,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=128,
        decoder_ffn_dim=128,
        max_source_positions=30,
        max_target_positions=16,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        decoder_start_token_id=1,
    )
    torch.manual_seed(0)
    theirs = transformers.WhisperForConditionalGeneration(config).eval()
    for parameter in theirs.parameters():
        if parameter is not theirs.model.encoder.embed_positions.weight:
            parameter.copy_((parameter + 0.05 * torch.randn_like(parameter)).half().float())
    folder = write_folder(tmp_path / "hf", "hf", openai_state())
    theirs.save_pretrained(folder)
    convert_whisper(folder, tmp_path / "ours")
    ours = load_model(tmp_path / "ours").model
    feats = torch.randn(2, 60, 20)  # its encoder takes 2 x max_source_positions frames, no fewer
    expected = theirs.model.encoder(feats.mT).last_hidden_state
    enc, lens = ours.encode(feats, torch.tensor([60, 60]))
    torch.testing.assert_close(enc, expected, atol=1e-4, rtol=1e-3)  # weights rounded to half precision on the way
    tokens = torch.randint(0, 280, (2, 9))
    logits = theirs(encoder_outputs=(expected,), decoder_input_ids=tokens).logits
    torch.testing.assert_close(ours(tokens, enc, lens), logits, atol=1e-3, rtol=1e-3)


@pytest.fixture(scope="module")
def real_whisper(tmp_path_factory):
    folder = os.environ.get("SPEECHNAR_WHISPER")
    if folder is None or not Path(folder).is_dir():
        pytest.skip("needs Whisper's weights in the folder that SPEECHNAR_WHISPER names")
    ours = tmp_path_factory.mktemp("whisper")
    convert_whisper(folder, ours)
    return ours


@torch.no_grad()
def test_encoder_agrees_with_transformers_on_real_weights(real_whisper):
    """30 s, as transformers demands; both compute in float32 from weights of half precision."""
    transformers = pytest.importorskip("transformers", reason="needs transformers, of the extra t5")
    loaded = load_model(real_whisper)
    ours, sizes = loaded.model, loaded.model.config.encoder
    config = transformers.WhisperConfig(
        num_mel_bins=sizes.num_mels,
        d_model=sizes.model_dim,
        encoder_layers=sizes.num_layers,
        encoder_attention_heads=sizes.num_heads,
        encoder_ffn_dim=4 * sizes.model_dim,
    )
    theirs = transformers.models.whisper.modeling_whisper.WhisperEncoder(config).eval()
    theirs.load_state_dict(_hf_encoder(ours.encoder.state_dict(), theirs.state_dict()))
    wav = torch.zeros(480_000)
    speech = torch.from_numpy(speechlike(7.0, seed=3))
    wav[: len(speech)] = speech
    frontend, lens = LogMel(LogMelConfig.for_whisper(sizes.num_mels)), torch.tensor([480_000])
    feats, feat_lens = frontend(wav[None], lens)
    feats = PeakRange()(feats, feat_lens)
    found, _ = ours.encode(feats, feat_lens)
    expected = theirs(feats.mT).last_hidden_state
    torch.testing.assert_close(found, expected, atol=5e-3, rtol=1e-3)


def _hf_encoder(state, template):
    renamed = {"embed_positions.weight": template["embed_positions.weight"]}
    names = {
        "norm_attention": "self_attn_layer_norm",
        "attention.out": "self_attn.out_proj",
        "ff.0": "final_layer_norm",
        "ff.1": "fc1",
        "ff.4": "fc2",
    }
    for name, tensor in state.items():
        part, _, leaf = name.rpartition(".")
        if part.endswith("attention.qkv"):
            prefix = part.removesuffix("attention.qkv")
            for key, value in zip("qkv", tensor.chunk(3), strict=True):
                if (key, leaf) != ("k", "bias"):
                    renamed[f"{prefix}self_attn.{key}_proj.{leaf}"] = value
        else:
            for ours, theirs in names.items():
                part = theirs.join(part.rsplit(ours, 1)) if part.endswith(ours) else part
            renamed[f"{'layer_norm' if part == 'norm' else part}.{leaf}"] = tensor
    return renamed
