"""What FunASR computed, compared where FunASR is not installed; and the layout of its published models."""

import json

import numpy as np
import pytest
import torch

from speechnar.interop import convert
from speechnar.interop.espnet_names import check_fit
from speechnar.interop.funasr_names import destination_of, map_state, module_names
from speechnar.interop.funasr_options import parse_options
from speechnar.models.asr.paraformer import Paraformer, ParaformerConfig
from speechnar.models.base import load_model
from speechnar.nn.lengths import valid_mask
from speechnar.nn.sanm import WindowConfig
from speechnar.text.tokenizer import CharTokenizer
from tests.reference.funasr_folders import read_golden, write_folder


def converted(name, tmp_path):
    golden = read_golden(name)
    convert(write_folder(golden, tmp_path / "funasr"), tmp_path / "ours")
    return golden, load_model(tmp_path / "ours")


def close(ours, golden, name, atol=1e-4):
    torch.testing.assert_close(ours, torch.from_numpy(golden[name]), atol=atol, rtol=0.0)


@pytest.mark.parametrize("name", ["seaco", "conformer"])
@torch.no_grad()
def test_offline_paraformer_equals_the_reference(name, tmp_path):
    golden, loaded = converted(name, tmp_path)
    model = loaded.model
    wav = torch.from_numpy(golden["pcm"].astype(np.float32) / 32768)[None]
    lens = torch.tensor([wav.size(1)])
    feats, feat_lens = model.features(wav, lens)
    close(feats[0], golden, "feats", atol=5e-4)  # the logarithm of almost nothing
    speech = model.encode_features(torch.from_numpy(golden["feats"])[None], feat_lens)
    close(speech.enc[0], golden, "enc")
    cut = model.head.embedder(speech)
    close(cut.alphas[0], golden, "alphas")
    close(cut.embeds[0], golden, "embeds")
    valid = valid_mask(cut.lens, cut.embeds.size(1))
    hidden = model.head.decoder(cut.embeds, valid, *model.head.look(speech, cut))
    log_probs = model.head.output(hidden).log_softmax(2)
    close(log_probs[0], golden, "log_probs")
    if name == "conformer":
        close(speech.log_probs[0], golden, "ctc_log_probs")
    result = json.loads(str(golden["result"]))
    speech = model.encode(wav, lens)
    paths = model.decode(speech)
    assert loaded.tokenizer.decode(paths[0].tokens) == result["text"].replace(" ", "")
    if name == "seaco":
        (times,) = model.head.times(speech, paths)
        spans_ms = torch.tensor([times.starts, times.ends], dtype=torch.float64).T * 60
        torch.testing.assert_close(spans_ms, torch.tensor(result["timestamp"]).double(), atol=1.0, rtol=0.0)


@torch.no_grad()
def test_hotwords_equal_the_reference(tmp_path):
    golden, loaded = converted("seaco", tmp_path)
    assert not loaded.config.hotwords.leaky_selection
    hotwords = loaded.config.hotwords.model_copy(update={"leaky_selection": True})
    model = Paraformer(loaded.config.model_copy(update={"hotwords": hotwords}), loaded.tokenizer).eval()
    model.load_state_dict(loaded.model.state_dict())
    feats = torch.from_numpy(golden["feats"])[None]
    speech = model.encode_features(feats, torch.tensor([feats.size(1)]))
    steps = model.head.timestamps.alphas(speech.enc, speech.lens)[0]
    close(steps * len(golden["embeds"]) / steps.sum(), golden, "steps")
    cut = model.head.embedder(speech)
    valid = valid_mask(cut.lens, cut.embeds.size(1))
    hidden = model.head.decoder(cut.embeds, valid, *model.head.look(speech, cut))
    log_probs = model.head.output(hidden).log_softmax(2)
    for name in ("hotwords", "many_hotwords"):
        vectors = model.bias.select(hidden, valid, model.hotword_vectors(json.loads(str(golden[name]))))
        merged = model.bias.merge(log_probs, model.bias(cut.embeds, hidden, valid, vectors))
        close(merged[0], golden, f"{name}_log_probs")
        assert not torch.equal(merged, log_probs)


@torch.no_grad()
def test_streaming_paraformer_equals_the_reference(tmp_path):
    golden, loaded = converted("online", tmp_path)
    assert loaded.config.encoder.windows == WindowConfig()  # what FunASR's runtime does otherwise is off by default
    windows = WindowConfig(lead_frames=5, late_look_back=True)
    encoder = loaded.config.encoder.model_copy(update={"windows": windows})
    model = Paraformer(loaded.config.model_copy(update={"encoder": encoder}), loaded.tokenizer).eval()
    model.load_state_dict(loaded.model.state_dict())
    feats = torch.from_numpy(golden["feats"])[None]
    speech = model.encode_features(feats, torch.tensor([feats.size(1)]))
    sizes = golden["window_sizes"].tolist()
    ours = torch.cat([window[:size] for window, size in zip(speech.windows[0], sizes, strict=True)])
    close(ours, golden, "enc")
    cut = model.head.embedder(speech)
    valid = valid_mask(cut.lens, cut.embeds.size(1))
    hidden = model.head.decoder(cut.embeds, valid, *model.head.look(speech, cut))
    close(model.head.output(hidden).log_softmax(2)[0], golden, "log_probs")
    (path,) = model.decode(speech)
    assert loaded.tokenizer.decode(path.tokens) == json.loads(str(golden["result"]))["text"]


_LEAVES = ("weight", "bias")
LARGE = {
    "encoder": "SANMEncoder",
    "encoder_conf": {
        "output_size": 512,
        "attention_heads": 4,
        "linear_units": 2048,
        "num_blocks": 50,
        "attention_dropout_rate": 0.1,
        "input_layer": "pe",
        "kernel_size": 11,
    },
    "decoder": "ParaformerSANMDecoder",
    "decoder_conf": {
        "attention_heads": 4,
        "linear_units": 2048,
        "num_blocks": 16,
        "self_attention_dropout_rate": 0.1,
        "src_attention_dropout_rate": 0.1,
        "att_layer_num": 16,
        "kernel_size": 11,
    },
    "frontend_conf": {"lfr_m": 7, "lfr_n": 6},
}
V2 = {"idim": 512, "l_order": 1, "r_order": 1, "tail_threshold": 0.45}
V3 = V2 | {
    "smooth_factor2": 0.25,
    "noise_threshold2": 0.01,
    "upsample_times": 3,
    "use_cif1_cnn": False,
    "upsample_type": "cnn_blstm",
}
MODEL = {
    "ctc_weight": 0.0,
    "lsm_weight": 0.1,
    "predictor_weight": 1.0,
    "predictor_bias": 1,
    "sampling_ratio": 0.75,
}
SEACO = {
    "seaco_decoder": "ParaformerSANMDecoder",
    "seaco_decoder_conf": {
        "linear_units": 1024,
        "num_blocks": 4,
        "kernel_size": 21,
        "use_output_layer": False,
        "wo_input_layer": True,
    },
}


def sanm_layer(prefix, in_dim, ff_dim, kernel):
    """Return the tensors of a decoder layer of width 512."""
    return {
        **{f"{prefix}.norm{i}.{leaf}": (512,) for i in (1, 2, 3) for leaf in ("weight", "bias")},
        f"{prefix}.self_attn.fsmn_block.weight": (512, 1, kernel),
        f"{prefix}.src_attn.linear_q.weight": (512, 512),
        f"{prefix}.src_attn.linear_q.bias": (512,),
        f"{prefix}.src_attn.linear_k_v.weight": (1024, in_dim),
        f"{prefix}.src_attn.linear_k_v.bias": (1024,),
        f"{prefix}.src_attn.linear_out.weight": (512, 512),
        f"{prefix}.src_attn.linear_out.bias": (512,),
        **feed_forward(f"{prefix}.feed_forward", ff_dim),
    }


def feed_forward(prefix, ff_dim):
    return {
        f"{prefix}.w_1.weight": (ff_dim, 512),
        f"{prefix}.w_1.bias": (ff_dim,),
        f"{prefix}.norm.weight": (ff_dim,),
        f"{prefix}.norm.bias": (ff_dim,),
        f"{prefix}.w_2.weight": (512, ff_dim),
    }


def decoder(prefix, num_layers, ff_dim, kernel):
    shapes = {}
    for i in range(num_layers):
        shapes |= sanm_layer(f"{prefix}.decoders.{i}", 512, ff_dim, kernel)
    return {
        **shapes,
        **feed_forward(f"{prefix}.decoders3.0.feed_forward", ff_dim),
        **{f"{prefix}.{norm}.{leaf}": (512,) for norm in ("decoders3.0.norm1", "after_norm") for leaf in _LEAVES},
    }


def encoder_block(prefix, in_dim):
    return {
        f"{prefix}.self_attn.linear_q_k_v.weight": (1536, in_dim),
        f"{prefix}.self_attn.linear_q_k_v.bias": (1536,),
        f"{prefix}.self_attn.linear_out.weight": (512, 512),
        f"{prefix}.self_attn.linear_out.bias": (512,),
        f"{prefix}.self_attn.fsmn_block.weight": (512, 1, 11),
        **{f"{prefix}.norm1.{leaf}": (in_dim,) for leaf in _LEAVES},
        **{f"{prefix}.norm2.{leaf}": (512,) for leaf in _LEAVES},
        f"{prefix}.feed_forward.w_1.weight": (2048, 512),
        f"{prefix}.feed_forward.w_1.bias": (2048,),
        f"{prefix}.feed_forward.w_2.weight": (512, 2048),
        f"{prefix}.feed_forward.w_2.bias": (512,),
    }


def published_shapes(model):
    """Return the tensors of FunASR's published models, as its source builds them."""
    shapes = encoder_block("encoder.encoders0.0", 560)
    for i in range(49):
        shapes |= encoder_block(f"encoder.encoders.{i}", 512)
    shapes |= {f"encoder.after_norm.{leaf}": (512,) for leaf in _LEAVES}
    shapes |= decoder("decoder", 16, 2048, 11)
    shapes |= {"decoder.embed.0.weight": (8404, 512)}
    shapes |= {"decoder.output_layer.weight": (8404, 512), "decoder.output_layer.bias": (8404,)}
    shapes |= {"predictor.cif_conv1d.weight": (512, 512, 3), "predictor.cif_conv1d.bias": (512,)}
    shapes |= {"predictor.cif_output.weight": (1, 512), "predictor.cif_output.bias": (1,)}
    if model in ("BiCifParaformer", "SeacoParaformer"):
        shapes |= {"predictor.upsample_cnn.weight": (512, 512, 3), "predictor.upsample_cnn.bias": (512,)}
        for end in ("", "_reverse"):
            shapes |= {f"predictor.blstm.weight_{kind}_l0{end}": (2048, 512) for kind in ("ih", "hh")}
            shapes |= {f"predictor.blstm.bias_{kind}_l0{end}": (2048,) for kind in ("ih", "hh")}
        shapes |= {"predictor.cif_output2.weight": (1, 1024), "predictor.cif_output2.bias": (1,)}
    if model == "SeacoParaformer":
        for layer in (0, 1):
            shapes |= {f"bias_encoder.weight_{kind}_l{layer}": (2048, 512) for kind in ("ih", "hh")}
            shapes |= {f"bias_encoder.bias_{kind}_l{layer}": (2048,) for kind in ("ih", "hh")}
        shapes |= decoder("seaco_decoder", 6, 1024, 21)
        shapes |= {"hotword_output_layer.weight": (8404, 512), "hotword_output_layer.bias": (8404,)}
    return shapes


@pytest.mark.parametrize(
    ("model", "options", "millions"),
    [
        ("Paraformer", {"predictor": "CifPredictorV2", "predictor_conf": V2, "model_conf": MODEL}, 220.0),
        ("BiCifParaformer", {"predictor": "CifPredictorV3", "predictor_conf": V3, "model_conf": MODEL}, 225.0),
        (
            "SeacoParaformer",
            {
                **SEACO,
                "predictor": "CifPredictorV3",
                "predictor_conf": V3,
                "model_conf": MODEL | {"inner_dim": 512, "NO_BIAS": 8377},
            },
            None,
        ),
        (
            "ParaformerStreaming",
            {
                "predictor": "CifPredictorV2",
                "predictor_conf": V2,
                "model_conf": MODEL,
                "encoder": "SANMEncoderChunkOpt",
                "encoder_conf": LARGE["encoder_conf"]
                | {
                    "input_layer": "pe_online",
                    "chunk_size": [12, 15],
                    "stride": [8, 10],
                    "encoder_att_look_back_factor": [4, 4],
                    "decoder_att_look_back_factor": [1, 1],
                },
                "decoder_conf": LARGE["decoder_conf"] | {"sanm_shfit": 5},
            },
            220.0,
        ),
    ],
)
def test_published_models_fit_key_by_key(model, options, millions):
    config = parse_options({"model": model, **LARGE, **options}).to_config()
    pieces = ("<blank>", "<sos>", "<eos>", *(chr(0x4E00 + i) for i in range(8400)), "<unk>")
    names = module_names()
    with torch.device("meta"):
        ours = Paraformer(config, CharTokenizer(pieces))
        theirs = {key: torch.empty(shape) for key, shape in published_shapes(model).items()}
    state, keys = map_state(theirs, names)
    state |= {"normalizer.mean": torch.empty(560), "normalizer.std": torch.empty(560)}
    check_fit(ours, state)
    assert len(keys) == len(theirs)
    if millions is not None:
        assert sum(p.numel() for p in ours.parameters()) / 1e6 == pytest.approx(millions, abs=0.5)


def test_options_of_the_large_model_give_our_large_model():
    options = {"model": "Paraformer", **LARGE, "predictor": "CifPredictorV2", "predictor_conf": V2}
    config = parse_options({**options, "model_conf": MODEL, "specaug": "SpecAugLFR"}).to_config()
    frontend = ParaformerConfig.large().frontend.model_copy(update={"dither": 1.0})
    assert config == ParaformerConfig.large().model_copy(update={"frontend": frontend})


@pytest.mark.parametrize("name", ["seaco", "conformer", "online"])
def test_no_two_tensors_have_one_name(name):
    names = module_names(conformer=name == "conformer", transformer=name == "conformer")
    keys = [key[6:] for key in read_golden(name) if key.startswith("state/")]
    ours = [destination_of(key, names) for key in keys]
    assert None not in ours
    assert len(set(ours)) == len(ours)
