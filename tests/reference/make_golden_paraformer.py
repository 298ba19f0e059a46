"""Write golden/paraformer*.npz: tiny random Paraformers of FunASR 1.4.16, their folders, and what they make of speech.

    python -m tests.reference.make_golden_paraformer

Weights are rounded to float16 before FunASR uses them, so that the files hold exactly the weights it used.
"""

import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from funasr import AutoModel
from funasr.register import tables
from funasr.utils.load_utils import extract_fbank

from tests.reference.funasr_folders import meta_of
from tests.unit.tiny import speechlike

GOLDEN = Path(__file__).parent / "golden"
WIDTH, MELS = 16, 20
TOKENS = ("<blank>", "<s>", "</s>", *(chr(0x4E00 + i) for i in range(70)), "<nobias>", "<unk>")
HOTWORDS = [[7, 8], [20, 9, 11], [31]]
MANY_HOTWORDS = [[5 + i, 60 - i // 2] for i in range(55)]

SANM: dict[str, Any] = {
    "attention_heads": 2,
    "linear_units": 32,
    "dropout_rate": 0.1,
    "positional_dropout_rate": 0.1,
    "sanm_shfit": 0,
}
OFFLINE: dict[str, Any] = {
    "model": "Paraformer",
    "model_conf": {
        "ctc_weight": 0.0,
        "lsm_weight": 0.1,
        "length_normalized_loss": True,
        "predictor_weight": 1.0,
        "predictor_bias": 1,
        "sampling_ratio": 0.75,
    },
    "encoder": "SANMEncoder",
    "encoder_conf": {
        **SANM,
        "output_size": WIDTH,
        "num_blocks": 3,
        "attention_dropout_rate": 0.1,
        "input_layer": "pe",
        "pos_enc_class": "SinusoidalPositionEncoder",
        "normalize_before": True,
        "kernel_size": 5,
        "selfattention_layer_type": "sanm",
    },
    "decoder": "ParaformerSANMDecoder",
    "decoder_conf": {
        **SANM,
        "num_blocks": 2,
        "att_layer_num": 2,
        "self_attention_dropout_rate": 0.1,
        "src_attention_dropout_rate": 0.1,
        "kernel_size": 5,
    },
    "predictor": "CifPredictorV2",
    "predictor_conf": {"idim": WIDTH, "threshold": 1.0, "l_order": 1, "r_order": 1, "tail_threshold": 0.45},
    "frontend": "WavFrontend",
    "frontend_conf": {
        "fs": 16000,
        "window": "hamming",
        "n_mels": MELS,
        "frame_length": 25,
        "frame_shift": 10,
        "lfr_m": 7,
        "lfr_n": 6,
        "dither": 0.0,
    },
    "tokenizer": "CharTokenizer",
    "tokenizer_conf": {"unk_symbol": "<unk>", "split_with_space": True},
    "ctc_conf": {"dropout_rate": 0.0, "ctc_type": "builtin", "reduce": True, "ignore_nan_grad": True},
    "normalize": None,
}
TIMED = {
    **OFFLINE["predictor_conf"],
    "smooth_factor2": 0.25,
    "noise_threshold2": 0.01,
    "upsample_times": 3,
    "use_cif1_cnn": False,
    "upsample_type": "cnn_blstm",
}
SEACO = {
    **OFFLINE,
    "model": "SeacoParaformer",
    "model_conf": {
        **OFFLINE["model_conf"],
        "inner_dim": WIDTH,
        "bias_encoder_type": "lstm",
        "bias_encoder_bid": False,
        "seaco_lsm_weight": 0.1,
        "seaco_length_normal": True,
        "train_decoder": False,
        "NO_BIAS": TOKENS.index("<nobias>"),
    },
    "seaco_decoder": "ParaformerSANMDecoder",
    "seaco_decoder_conf": {
        **OFFLINE["decoder_conf"],
        "num_blocks": 4,
        "att_layer_num": 6,
        "kernel_size": 7,
        "use_output_layer": False,
        "wo_input_layer": True,
    },
    "predictor": "CifPredictorV3",
    "predictor_conf": TIMED,
}
ONLINE = {
    **OFFLINE,
    "model": "ParaformerStreaming",
    "encoder": "SANMEncoderChunkOpt",
    "encoder_conf": {
        **OFFLINE["encoder_conf"],
        "input_layer": "pe_online",
        "chunk_size": [12, 15],
        "stride": [8, 10],
        "pad_left": [0, 0],
        "encoder_att_look_back_factor": [4, 4],
        "decoder_att_look_back_factor": [1, 1],
    },
    "decoder_conf": {**OFFLINE["decoder_conf"], "sanm_shfit": 2},
    "frontend": "WavFrontendOnline",
}
CONFORMER = {
    **OFFLINE,
    "model_conf": {"ctc_weight": 0.3, "lsm_weight": 0.1, "predictor_weight": 1.0, "sampling_ratio": 0.4},
    "encoder": "ConformerEncoder",
    "encoder_conf": {
        "output_size": WIDTH,
        "attention_heads": 2,
        "linear_units": 32,
        "num_blocks": 2,
        "input_layer": "conv2d",
        "activation_type": "swish",
        "macaron_style": True,
        "use_cnn_module": True,
        "cnn_module_kernel": 5,
    },
    "decoder": "ParaformerSANDecoder",
    "decoder_conf": {"attention_heads": 2, "linear_units": 32, "num_blocks": 2, "src_attention_dropout_rate": 0.0},
    "predictor": "CifPredictor",
    "frontend_conf": {**OFFLINE["frontend_conf"], "lfr_m": 1, "lfr_n": 1},
}


def main() -> None:
    scratch = Path(tempfile.mkdtemp())
    pcm = np.round(speechlike(2.2) * 32767 * 0.9).clip(-32768, 32767).astype(np.int16)
    for name, conf in (("seaco", SEACO), ("conformer", CONFORMER), ("online", ONLINE)):
        files, state = build(conf, scratch / name)
        auto = AutoModel(model=str(scratch / name), device="cpu", ncpu=1, disable_update=True, disable_pbar=True)
        wav = torch.from_numpy(pcm.astype(np.float32) / 32768)
        with torch.no_grad():
            outputs = stream(auto, wav) if name == "online" else run(auto, wav)
        path = GOLDEN / f"paraformer_{name}.npz"
        arrays = {f"file/{key}": np.array(text) for key, text in files.items()}
        arrays |= {f"state/{key}": value for key, value in state.items()}
        np.savez_compressed(path, pcm=pcm, **arrays, **outputs)
        print(path, path.stat().st_size, "bytes;", outputs["result"])


def build(conf: dict[str, Any], folder: Path) -> tuple[dict[str, str], dict[str, np.ndarray]]:
    """Write a FunASR folder; return its text files, and its weights in float16."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    num_features = MELS * conf["frontend_conf"]["lfr_m"]
    vectors = {
        "AddShift": 2 + rng.standard_normal(num_features),
        "Rescale": 0.2 + 0.02 * rng.standard_normal(num_features),
    }
    size = f"{num_features} {num_features}"
    lines = ["<Nnet>", f"<Splice> {size}", "[ 0 ]"]
    for name, values in vectors.items():
        lines += [f"<{name}> {size}", "<LearnRateCoef> 0 [ " + " ".join(f"{x:.4f}" for x in values) + " ]"]
    files = {
        "config.yaml": yaml.safe_dump(conf, sort_keys=False),
        "configuration.json": json.dumps(meta_of(token_list="tokens.json", seg_dict_file="seg_dict")),
        "tokens.json": json.dumps(TOKENS, ensure_ascii=False),
        "seg_dict": "".join(f"{token} {token}\n" for token in TOKENS[3:-2]),
        "am.mvn": "\n".join([*lines, "</Nnet>"]) + "\n",
    }
    for name, text in files.items():
        (folder / name).write_text(text, encoding="utf-8")
    torch.manual_seed(0)
    parts = {key: value for key, value in conf.items() if key not in ("model", "model_conf")}
    model = tables.model_classes.get(conf["model"])(
        input_size=num_features, vocab_size=len(TOKENS), **parts, **conf["model_conf"]
    )
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(1.5)  # random weights of so few units would all say the same
        model.predictor.cif_output.bias.fill_(-1.0)  # a few tokens a second
        for parameter in model.parameters():
            parameter.copy_(parameter.half())
    torch.save({"state_dict": model.state_dict()}, folder / "model.pt")
    parameters = dict(model.named_parameters())
    return files, {
        name: value.numpy().astype(np.float16) if name in parameters else value.numpy()
        for name, value in model.state_dict().items()
    }


def run(auto: Any, wav: torch.Tensor) -> dict[str, np.ndarray]:
    """Return what an offline model makes of one utterance."""
    model = auto.model
    feats, lens = extract_fbank([wav], data_type="sound", frontend=auto.kwargs["frontend"])
    outputs = {"feats": feats[0].numpy().copy()}
    enc, enc_lens = model.encode(feats.clone(), lens)[:2]
    embeds, num_tokens, alphas, _ = model.calc_predictor(enc, enc_lens)[:4]
    num_tokens = num_tokens.round().long()
    log_probs, _ = model.cal_decoder_with_predictor(enc, enc_lens, embeds, num_tokens)[:2]
    num = int(num_tokens)
    outputs |= {"enc": enc[0].numpy(), "alphas": alphas[0, : enc.size(1)].numpy()}
    outputs |= {"embeds": embeds[0, :num].numpy(), "log_probs": log_probs[0, :num].numpy()}
    if hasattr(model, "seaco_decoder"):
        _, _, steps, _ = model.calc_predictor_timestamp(enc, enc_lens, num_tokens)
        outputs["steps"] = steps[0].numpy()
        for name, words in (("hotwords", HOTWORDS), ("many_hotwords", MANY_HOTWORDS)):
            words_and_none = [*words, [model.sos]]
            merged = model._seaco_decode_with_ASF(enc, enc_lens, embeds, num_tokens, hw_list=words_and_none)
            outputs |= {name: np.array(json.dumps(words)), f"{name}_log_probs": merged[0, :num].numpy()}
    if model.ctc is not None:
        outputs["ctc_log_probs"] = model.ctc.log_softmax(enc)[0].numpy()
    (result,) = auto.generate(input=[wav], batch_size=1)
    outputs["result"] = np.array(json.dumps({"text": result["text"], "timestamp": result.get("timestamp")}))
    return outputs


def stream(auto: Any, wav: torch.Tensor) -> dict[str, np.ndarray]:
    """Return what a streaming model makes of one utterance that comes in pieces of 600 ms."""
    seen: dict[str, list[torch.Tensor]] = {"feats": [], "enc": [], "log_probs": []}
    model = auto.model
    encode, decode = model.encode_chunk, model.cal_decoder_with_predictor_chunk

    def encode_chunk(speech: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        seen["feats"].append(speech[0].clone())
        out = encode(speech, *args, **kwargs)
        seen["enc"].append(out[0][0].clone())
        return out

    def decode_chunk(*args: Any, **kwargs: Any) -> Any:
        out = decode(*args, **kwargs)
        seen["log_probs"].append(out[0][0].clone())
        return out

    model.encode_chunk, model.cal_decoder_with_predictor_chunk = encode_chunk, decode_chunk
    cache: dict[str, Any] = {}
    text = ""
    for start in range(0, len(wav), 9600):
        (result,) = auto.generate(
            input=wav[start : start + 9600],
            cache=cache,
            is_final=start + 9600 >= len(wav),
            chunk_size=[0, 10, 5],
            encoder_chunk_look_back=4,
            decoder_chunk_look_back=1,
        )
        text += result["text"].replace(" ", "")
    outputs = {name: torch.cat(parts).numpy() for name, parts in seen.items()}
    outputs["window_sizes"] = np.array([len(part) for part in seen["enc"]])
    outputs["result"] = np.array(json.dumps({"text": text}))
    return outputs


if __name__ == "__main__":
    main()
