"""What FunASR's SenseVoice computed, compared where FunASR is not installed; and the layout of the published one."""

import json

import numpy as np
import pytest
import torch

from speechnar.decode.ctc import greedy
from speechnar.interop import convert
from speechnar.interop.espnet_names import check_fit
from speechnar.interop.funasr_names import SENSEVOICE_NAMES, map_state
from speechnar.interop.sensevoice import parse_sensevoice
from speechnar.models.asr.sensevoice import SenseVoice, SenseVoiceConfig
from speechnar.models.base import load_model
from speechnar.text.tokenizer import CharTokenizer
from tests.reference.funasr_folders import read_golden, write_folder
from tests.reference.test_golden_paraformer import encoder_block

LEAVES = ("weight", "bias")
ASKED = {"any": (None, False), "japanese": ("jpn", True)}
"""Language and plain text, as `make_golden_sensevoice` asked for them."""


@pytest.mark.parametrize("name", ASKED)
@torch.no_grad()
def test_sensevoice_equals_the_reference(name, tmp_path):
    golden = read_golden("sensevoice")
    convert(write_folder(golden, tmp_path / "funasr"), tmp_path / "ours")
    loaded = load_model(tmp_path / "ours")
    model = loaded.model
    language, plain = ASKED[name]
    wav = torch.from_numpy(golden["pcm"].astype(np.float32) / 32768)[None]
    feats, feat_lens = model.features(wav, torch.tensor([wav.size(1)]))
    # The logarithm of almost nothing.
    torch.testing.assert_close(feats[0], torch.from_numpy(golden["feats"]), atol=5e-4, rtol=0.0)
    prefix = model.prefix_of(language, plain=plain)
    out = model.encode_features(torch.from_numpy(golden["feats"])[None], feat_lens, prefix=prefix)
    log_probs = torch.cat([out.label_log_probs, out.log_probs], dim=1)[0]
    torch.testing.assert_close(log_probs, torch.from_numpy(golden[f"{name}_log_probs"]), atol=1e-4, rtol=0.0)
    out = model.encode(wav, torch.tensor([wav.size(1)]), prefix=prefix)
    # FunASR writes the labels in front of the text.
    labels, text = (
        greedy(part, torch.tensor([part.size(1)]), model.blank_id)[0].tokens
        for part in (out.label_log_probs, out.log_probs)
    )
    written = "".join(loaded.tokenizer.piece_of(token) for token in [*labels, *text]).replace("▁", " ").strip(" ")
    assert written == json.loads(str(golden["results"]))[name]


def test_ways_of_asking_differ():
    golden = read_golden("sensevoice")
    distance = np.abs(golden["any_log_probs"] - golden["japanese_log_probs"]).max()
    assert distance > 0.1


ENCODER = {
    "output_size": 512,
    "attention_heads": 4,
    "linear_units": 2048,
    "num_blocks": 50,
    "tp_blocks": 20,
    "dropout_rate": 0.1,
    "positional_dropout_rate": 0.1,
    "attention_dropout_rate": 0.1,
    "input_layer": "pe",
    "pos_enc_class": "SinusoidalPositionEncoder",
    "normalize_before": True,
    "kernel_size": 11,
    "sanm_shfit": 0,
    "selfattention_layer_type": "sanm",
}
FRONTEND = {
    "fs": 16000,
    "window": "hamming",
    "n_mels": 80,
    "frame_length": 25,
    "frame_shift": 10,
    "lfr_m": 7,
    "lfr_n": 6,
    "cmvn_file": None,
}
PUBLISHED = {
    "model": "SenseVoiceSmall",
    "model_conf": {"length_normalized_loss": True, "sos": 1, "eos": 2, "ignore_id": -1},
    "encoder": "SenseVoiceEncoderSmall",
    "encoder_conf": ENCODER,
    "tokenizer": "SentencepiecesTokenizer",
    "tokenizer_conf": {"bpemodel": None, "unk_symbol": "<unk>", "split_with_space": True},
    "frontend": "WavFrontend",
    "frontend_conf": FRONTEND,
    "specaug": "SpecAugLFR",
}
VOCAB_SIZE = 25055


def test_options_of_the_published_model_give_our_defaults():
    frontend = SenseVoiceConfig().frontend.model_copy(update={"dither": 1.0})
    assert parse_sensevoice(PUBLISHED) == SenseVoiceConfig(frontend=frontend)


def test_published_model_fits_key_by_key():
    shapes = encoder_block("encoder.encoders0.0", 560)
    for i in range(49):
        shapes |= encoder_block(f"encoder.encoders.{i}", 512)
    for i in range(20):
        shapes |= encoder_block(f"encoder.tp_encoders.{i}", 512)
    shapes |= {f"encoder.{norm}.{leaf}": (512,) for norm in ("after_norm", "tp_norm") for leaf in LEAVES}
    shapes |= {"embed.weight": (16, 560), "ctc.ctc_lo.weight": (VOCAB_SIZE, 512), "ctc.ctc_lo.bias": (VOCAB_SIZE,)}
    pieces = ("<blank>", "<unk>", *(chr(0x4E00 + i) for i in range(VOCAB_SIZE - 2)))
    with torch.device("meta"):
        ours = SenseVoice(parse_sensevoice(PUBLISHED), CharTokenizer(pieces))
        theirs = {key: torch.empty(shape) for key, shape in shapes.items()}
    state, keys = map_state(theirs, SENSEVOICE_NAMES)
    state |= {"normalizer.mean": torch.empty(560), "normalizer.std": torch.empty(560)}
    check_fit(ours, state)
    assert len(keys) == len(theirs)
    assert sum(p.numel() for p in ours.parameters()) / 1e6 == pytest.approx(234, abs=0.5)
