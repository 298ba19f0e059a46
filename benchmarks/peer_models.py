"""Models of other implementations, of random weights, as these save them: `benchmarks.peer_worker` builds them where it
has none. All of it runs in the environment of the implementation.
"""

import json
import sys
import types
from importlib import import_module
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

RATE = 16000
LETTERS = [chr(c) for c in range(ord("a"), ord("z") + 1)]
FIRST_SIGN = 0x4E00
"""Tokens of random models are signs that stand alone, counted from this one."""

# Encoder layers, decoder layers, width, feed-forward width, vocabulary; "large" is as published.
FUNASR_SIZES = {"tiny": (2, 1, 64, 128, 100), "small": (12, 6, 256, 1024, 4000), "large": (50, 16, 512, 2048, 8404)}
# Layers, width, feed-forward width, heads, vocabulary, mels, layers with a CTC head, prompt layers and width.
ESPNET_SIZES = {
    "small": (6, 256, 1024, 4, 5000, 80, [2, 4], 2, 256),
    "tiny": (3, 64, 128, 2, 400, 80, [1], 1, 64),
    "base": (9, 384, 1536, 6, 50000, 80, [3, 6], 2, 384),
    "1b": (27, 1024, 4096, 16, 50000, 128, [6, 12, 15, 21], 4, 512),
}
SPECIALS = ["<na>", "<nolang>", "<eng>", "<asr>"]
# Layers, width, feed-forward width, heads.
PARAKEET_SIZES = {"tiny": (2, 64, 96, 4), "110m": (17, 512, 2048, 8), "0.6b": (24, 1024, 4096, 8)}
# Encoder layers, self- and mixed-attention layers, layers of the autoregressive decoder, width, heads.
CASSNAT_SIZES = {"tiny": (2, 1, 1, 1, 32, 2), "small": (6, 2, 2, 3, 256, 4), "libri100": (12, 5, 2, 6, 512, 8)}
CASSNAT_VOCAB, CASSNAT_TOKENS_PER_S = 1024, 3.5


def build_funasr(folder: Path, size: str) -> None:
    """Write a model folder as FunASR publishes them, of random weights that emit 4.5 tokens a second."""
    import torch  # noqa: PLC0415  # of the peer's environment
    import yaml  # noqa: PLC0415
    from funasr.register import tables  # noqa: PLC0415

    layers, decoder_layers, width, ff_dim, vocab_size = FUNASR_SIZES[size]
    shared = {"attention_heads": 4, "linear_units": ff_dim, "kernel_size": 11, "sanm_shfit": 0, "dropout_rate": 0.1}
    shared |= {"positional_dropout_rate": 0.1}
    encoder = {"output_size": width, "num_blocks": layers, "input_layer": "pe", "normalize_before": True}
    encoder |= {"pos_enc_class": "SinusoidalPositionEncoder", "selfattention_layer_type": "sanm"}
    encoder |= {"attention_dropout_rate": 0.1}
    decoder = {"num_blocks": decoder_layers, "att_layer_num": decoder_layers}
    decoder |= {"self_attention_dropout_rate": 0.1, "src_attention_dropout_rate": 0.1}
    model_conf = {"ctc_weight": 0.0, "lsm_weight": 0.1, "length_normalized_loss": True, "predictor_weight": 1.0}
    model_conf |= {"predictor_bias": 1, "sampling_ratio": 0.75}
    parts = {
        "encoder": "SANMEncoder",
        "encoder_conf": shared | encoder,
        "decoder": "ParaformerSANMDecoder",
        "decoder_conf": shared | decoder,
        "predictor": "CifPredictorV2",
        "predictor_conf": {"idim": width, "threshold": 1.0, "l_order": 1, "r_order": 1, "tail_threshold": 0.45},
        "ctc_conf": {"dropout_rate": 0.0, "ctc_type": "builtin", "reduce": True, "ignore_nan_grad": True},
        "normalize": None,
    }
    frontend = {"fs": RATE, "window": "hamming", "n_mels": 80, "frame_length": 25, "frame_shift": 10}
    frontend |= {"lfr_m": 7, "lfr_n": 6, "dither": 0.0}
    config = {
        "model": "Paraformer",
        "model_conf": model_conf,
        **parts,
        "frontend": "WavFrontend",
        "frontend_conf": frontend,
        "tokenizer": "CharTokenizer",
        "tokenizer_conf": {"unk_symbol": "<unk>", "split_with_space": True},
    }
    folder.mkdir(parents=True, exist_ok=True)
    tokens = ["<blank>", "<s>", "</s>", *(chr(FIRST_SIGN + i) for i in range(vocab_size - 4)), "<unk>"]
    (folder / "tokens.json").write_text(json.dumps(tokens, ensure_ascii=False), encoding="utf-8")
    (folder / "seg_dict").write_text("")
    rng = np.random.default_rng(0)
    rows = [("AddShift", -8 + rng.standard_normal(560)), ("Rescale", 0.2 + 0.02 * rng.standard_normal(560))]
    lines = ["<Nnet>", "<Splice> 560 560", "[ 0 ]"]
    for name, values in rows:
        lines += [f"<{name}> 560 560", f"<LearnRateCoef> 0 [ {' '.join(f'{x:.6f}' for x in values)} ]"]
    (folder / "am.mvn").write_text("\n".join([*lines, "</Nnet>"]) + "\n")
    (folder / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    files = {"init_param": "model.pt", "config": "config.yaml", "frontend_conf": {"cmvn_file": "am.mvn"}}
    files["tokenizer_conf"] = {"token_list": "tokens.json", "seg_dict_file": "seg_dict"}
    described = {"framework": "pytorch", "task": "auto-speech-recognition", "model": {"type": "funasr"}}
    (folder / "configuration.json").write_text(json.dumps({**described, "file_path_metas": files}))
    torch.manual_seed(0)
    make = tables.model_classes.get("Paraformer")
    model = make(input_size=560, vocab_size=vocab_size, **parts, **model_conf)
    output = model.predictor.cif_output
    torch.nn.init.normal_(output.weight, std=0.02)
    torch.nn.init.constant_(output.bias, -1.0)
    torch.save({"state_dict": model.state_dict()}, folder / "model.pt")


def export_sherpa(folder: Path, out: Path) -> None:
    """Export by FunASR, and add the metadata that sherpa-onnx reads."""
    import onnx  # noqa: PLC0415  # of the peer's environment
    import torch  # noqa: PLC0415
    from funasr import AutoModel  # noqa: PLC0415

    out.mkdir(exist_ok=True)
    export = torch.onnx.export
    # FunASR calls it without `dynamo`, whose default became True.
    torch.onnx.export = lambda *args, **options: export(*args, **{"dynamo": False, **options})
    try:
        model = AutoModel(model=str(folder), device="cpu", disable_update=True, disable_pbar=True)
        model.export(type="onnx", quantize=True, output_dir=str(out))
    finally:
        torch.onnx.export = export
    lines = (folder / "am.mvn").read_text().splitlines()
    mean, scale = (line.split()[3:-1] for line in lines if line.startswith("<LearnRateCoef>"))
    tokens = json.loads((folder / "tokens.json").read_text(encoding="utf-8"))
    meta = {"model_type": "paraformer", "version": "1", "vocab_size": str(len(tokens)), "lfr_window_size": "7"}
    meta |= {"model_author": "random", "lfr_window_shift": "6", "neg_mean": ",".join(mean)}
    meta |= {"inv_stddev": ",".join(scale)}
    for source, file in (("model.onnx", "model.onnx"), ("model_quant.onnx", "model.int8.onnx")):
        graph = onnx.load(out / source)
        del graph.metadata_props[:]
        for key, value in meta.items():
            entry = graph.metadata_props.add()
            entry.key, entry.value = key, value
        onnx.save(graph, out / file)
    (out / "tokens.txt").write_text("".join(f"{t} {i}\n" for i, t in enumerate(tokens)), encoding="utf-8")


def build_espnet(folder: Path, size: str) -> None:
    """Write a checkpoint as ESPnet does, of random weights, with the topology of the published models."""
    import argparse  # noqa: PLC0415  # only needed here
    from copy import deepcopy  # noqa: PLC0415

    import torch  # noqa: PLC0415  # of the peer's environment
    import yaml  # noqa: PLC0415
    from sentencepiece import sentencepiece_model_pb2  # noqa: PLC0415

    layers, width, ff_dim, heads, vocab_size, mels, interctc, prompt_layers, prompt_dim = ESPNET_SIZES[size]
    folder.mkdir(parents=True, exist_ok=True)
    words = ["".join(letters) for n in (1, 2, 3, 4) for letters in product(LETTERS, repeat=n)]
    pieces = [*SPECIALS, *(f"\u2581{word}" for word in words[: vocab_size - len(SPECIALS) - 5])]
    proto = sentencepiece_model_pb2.ModelProto()
    for piece, kind in [("<unk>", 2), ("<s>", 3), ("</s>", 3), *((piece, 1) for piece in pieces)]:
        proto.pieces.add(piece=piece, score=-float(len(proto.pieces)), type=kind)
    (folder / "bpe.model").write_bytes(proto.SerializeToString())
    tokens = ["<blank>", "<unk>", *pieces, "<sop>", "<sos>", "<eos>"]
    encoder = {"output_size": width, "attention_heads": heads, "attention_layer_type": "selfattn", "num_blocks": layers}
    encoder |= {"pos_enc_layer_type": "abs_pos", "rel_pos_type": "latest", "cgmlp_linear_units": ff_dim}
    encoder |= {"cgmlp_conv_kernel": 31, "use_linear_after_conv": False, "gate_activation": "identity"}
    encoder |= {"dropout_rate": 0.1, "positional_dropout_rate": 0.1, "attention_dropout_rate": 0.1}
    encoder |= {"input_layer": "conv2d8", "layer_drop_rate": 0.0, "linear_units": ff_dim, "use_ffn": True}
    encoder |= {"positionwise_layer_type": "linear", "macaron_ffn": True, "merge_conv_kernel": 31}
    encoder |= {"interctc_layer_idx": interctc, "interctc_use_conditioning": True, "use_flash_attn": False}
    encoder |= {"use_cross_attention": [(i + 1) % 3 == 0 for i in range(layers)]}
    prompt = {"output_size": prompt_dim, "attention_heads": heads, "linear_units": 4 * prompt_dim}
    prompt |= {"num_blocks": prompt_layers}
    model_conf = {"interctc_weight": 0.5, "sym_na": "<na>", "report_cer": False, "report_wer": False}
    model_conf |= {"ctc_asr_only": [True] * len(interctc) + [False]}
    preprocessor = {"na_symbol": "<na>", "speech_length": 30, "speech_init_silence": 30, "text_prev_apply_prob": 0.5}
    preprocessor |= {"lang_apply_prob": 0.5, "nolang_symbol": "<nolang>"}
    config = {
        "token_list": tokens,
        "token_type": "bpe",
        "bpemodel": str(folder / "bpe.model"),
        "input_size": None,
        "init": None,
        "frontend": "default",
        "frontend_conf": {"fs": "16k", "n_fft": 512, "win_length": 400, "hop_length": 160, "n_mels": mels},
        "specaug": None,
        "specaug_conf": {},
        "normalize": "utterance_mvn",
        "normalize_conf": {"norm_means": True, "norm_vars": True},
        "encoder": "e_branchformer_ctc",
        "encoder_conf": encoder,
        "promptencoder": "transformer",
        "promptencoder_conf": prompt,
        "ctc_conf": {},
        "model": "espnet_ctc",
        "model_conf": model_conf,
        "preprocessor": "s2t_ctc",
        "preprocessor_conf": preprocessor,
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config, allow_unicode=True, sort_keys=False), encoding="utf-8")
    torch.manual_seed(0)
    model = import_module("espnet2.tasks.s2t_ctc").S2TTask.build_model(argparse.Namespace(**deepcopy(config)))
    torch.save(model.state_dict(), folder / "valid.total_count.ave.pth")


def build_parakeet(folder: Path, size: str) -> None:
    """Write a Parakeet-CTC as transformers does, of random weights."""
    import torch  # noqa: PLC0415  # of the peer's environment
    import transformers  # noqa: PLC0415

    layers, width, ff_dim, heads = PARAKEET_SIZES[size]
    encoder = transformers.ParakeetEncoderConfig(
        hidden_size=width, num_hidden_layers=layers, num_attention_heads=heads, intermediate_size=ff_dim
    )
    config = transformers.ParakeetCTCConfig(encoder_config=encoder)
    torch.manual_seed(0)
    transformers.ParakeetForCTC(config).save_pretrained(folder)
    transformers.ParakeetFeatureExtractor().save_pretrained(folder)
    pieces = ["<unk>", *(chr(FIRST_SIGN + i) for i in range(1, config.vocab_size - 1)), "<pad>"]
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    (folder / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False), encoding="utf-8")


def cassnat_arguments(size: str) -> dict[str, Any]:
    """Return the training configuration of the authors' LibriSpeech recipe, in another size."""
    layers, self_layers, mixed_layers, ar_layers, width, heads = CASSNAT_SIZES[size]
    sizes = {"N_enc": layers, "N_extra": 1, "N_self_dec": self_layers, "N_mix_dec": mixed_layers, "N_dec": ar_layers}
    sizes |= {"d_model": width, "d_ff": 4 * width, "d_encff": 2 * width, "d_decff": 2 * width, "n_head": heads}
    encoder = {"model_type": "conformer", "input_size": 80, "n_features": 80, "use_conv_enc": True, "share_ff": False}
    encoder |= {"pos_type": "relative", "enc_max_relative_len": 20, "enc_kernel_size": 31, "max_len": 5000}
    decoder = {"use_conv_dec": True, "dec_max_relative_len": 8, "dec_kernel_size": 3, "use_mask_embed": True}
    decoder |= {"use_trigger": True, "src_trigger": False, "use_unimask": False, "left_trigger": 1, "right_trigger": 1}
    training = {"dropout": 0.0, "use_mlm": False, "apply_mask": False, "label_smooth": 0.1, "ctc_alpha": 0.5}
    training |= {"interctc_alpha": 0.0, "interctc_layer": 0, "interce_alpha": 0.0, "interce_layer": 0, "att_alpha": 1}
    names = {"vocab_size": CASSNAT_VOCAB, "padding_idx": 0, "text_padding_idx": 0, "use_cmvn": False}
    return sizes | encoder | decoder | training | names


def import_cassnat(clone: Path) -> tuple[Any, Any]:
    """Return the makers of both models of a working copy of Diamondfan/cassnat_asr, revision a3a7a77.

    Two things are replaced: the vendored fairseq, which only the HuBERT encoder needs and which does not import on
    Python 3.11, and `Tensor.cuda`, which their trigger mask calls whatever the device.
    """
    import torch  # noqa: PLC0415  # of the peer's environment

    stub = types.ModuleType("models.blocks.hubert_blocks")
    stub.__dict__["HubertModel"] = object
    sys.modules[stub.__name__] = stub
    setattr(torch.Tensor, "cuda", lambda self, *_, **__: self)  # noqa: B010  # as a type checker would refuse
    sys.path.insert(0, str(clone / "src"))
    models = import_module("models")
    return models.make_cassnat_model, models.make_art_model


def build_cassnat(folder: Path, size: str, feats: Any, nat: Any, ranker: Any) -> None:
    """Write both models, whose blank is moved so that a plausible number of the frames of ``feats`` is not blank."""
    import torch  # noqa: PLC0415  # of the peer's environment
    import yaml  # noqa: PLC0415

    folder.mkdir(parents=True, exist_ok=True)
    with torch.no_grad():
        x, mask = nat.src_embed(feats, torch.ones(1, 1, feats.size(1), dtype=torch.bool))
        log_probs = nat.ctc_generator(nat.encoder(x, mask))[0]
        margin = (log_probs[:, 1:].max(-1).values - log_probs[:, 0]).sort(descending=True).values
        nat.ctc_generator.proj.bias[0] += margin[int(CASSNAT_TOKENS_PER_S * feats.size(1) / 100)]
    torch.save({"model_state": nat.state_dict()}, folder / "model.mdl")
    torch.save(ranker.state_dict(), folder / "ranker.pt")
    (folder / "config.yaml").write_text(yaml.safe_dump(cassnat_arguments(size)))
    units = [chr(FIRST_SIGN + number) for number in range(4, CASSNAT_VOCAB)]
    (folder / "vocab.txt").write_text("\n".join(units) + "\n", encoding="utf-8")
