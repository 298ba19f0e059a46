"""Our OWSM-CTC against ESPnet's on the same random weights, in one process: samples in, text out, greedy.

Random weights emit more tokens than trained ones, which burdens both sides alike. ESPnet is given the language and
the task and so are we. Long recordings go through both sides' overlapping windows of 30 s, four at a time; the texts
may differ at the seams, which ESPnet puts in the middle of the overlap and we where both windows hear nothing.
"""

import argparse
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from benchmarks.result import RESULTS, load_average, median_seconds, write_result
from speechnar import DecodeOptions, Transcriber
from speechnar.interop import convert_espnet
from tests.reference import espnet_models as reference
from tests.unit.tiny import RATE, speechlike

# The sizes of `OwsmCtcConfig.small`.
SMALL = {"dim": 256, "num_blocks": 6, "heads": 4, "interctc": [2, 4], "prompt_blocks": 2}
TINY = {"dim": 32, "num_blocks": 3, "heads": 2, "interctc": [1], "prompt_blocks": 1}
WINDOW_S = 30
WINDOWS_AT_ONCE = 4
CONTEXT_S = 4


def main() -> int:
    """Write a result for each length."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=int, nargs="+", default=[10, 30, 300])
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--tiny", action="store_true", help="a model too small to say anything, to try the script")
    parser.add_argument("--output", type=Path, default=RESULTS, help="default: %(default)s")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    with tempfile.TemporaryDirectory() as folder:  # ESPnet reads its tokenizer when it is first needed
        espnet, ours, num_parameters = build(Path(folder), TINY if args.tiny else SMALL)
        for seconds in args.seconds:
            load = load_average()
            ours_s, theirs_s, same = compare(espnet, ours, seconds, args.runs)
            write_result(
                f"speed_owsm_ctc_{seconds}s",
                what=f"OWSM-CTC, {num_parameters / 1e6:.1f} M random parameters: {seconds} s of sound to text on a CPU",
                threads=args.threads,
                runs=args.runs,
                load_before=load,
                a={"label": "speechnar", "median_s": round(ours_s, 4)},
                b={"label": "ESPnet 202511", "median_s": round(theirs_s, 4)},
                result=f"speechnar {ours_s:.3f} s, ESPnet {theirs_s:.3f} s ({theirs_s / ours_s:.2f} times ours)",
                note=("the same text" if same else "texts differ")
                + (f"; windows of {WINDOW_S} s" if seconds > WINDOW_S else ""),
                folder=args.output,
            )
    return 0


def compare(espnet: Any, ours: Transcriber, seconds: int, runs: int) -> tuple[float, float, bool]:
    """Return our median seconds, ESPnet's, and whether the texts are equal."""
    wav = speechlike(seconds, seed=seconds)
    ours_s, theirs_s = median_seconds(lambda: run_ours(ours, wav), lambda: run_espnet(espnet, wav), runs)
    return ours_s, theirs_s, run_ours(ours, wav).split() == run_espnet(espnet, wav).split()


def build(folder: Path, sizes: Mapping[str, Any]) -> tuple[Any, Transcriber, int]:
    """Return ESPnet's recogniser, ours with the same weights, and their number."""
    task = reference.import_espnet(folder)
    from espnet2.bin.s2t_inference_ctc import Speech2TextGreedySearch  # noqa: PLC0415  # import_espnet prepares it

    tokenizer = reference.train_tokenizer()
    options = reference.owsm_ctc_options(tokenizer.pieces, **sizes)
    model = reference.build(task, options)
    reference.spread_tokens(model, torch.from_numpy(speechlike(10.0))[None])
    source = reference.write_folder(folder / "espnet", model, options, tokenizer)
    convert_espnet(source, folder / "ours")
    espnet = Speech2TextGreedySearch(
        s2t_train_config=str(source / "config.yaml"),
        s2t_model_file=str(source / "valid.total_count.ave.pth"),
        bpemodel=str(source / "bpe.model"),
        device="cpu",
        lang_sym="<eng>",
        task_sym="<asr>",
    )
    num_parameters = sum(parameter.numel() for parameter in model.parameters())
    return espnet, Transcriber.load(folder / "ours", device="cpu"), num_parameters


def run_espnet(espnet: Any, wav: npt.NDArray[np.float32]) -> str:
    """Return ESPnet's text."""
    if len(wav) > WINDOW_S * RATE:
        text: str = espnet.decode_long_batched_buffered(wav, batch_size=WINDOWS_AT_ONCE, context_len_in_secs=CONTEXT_S)
        return text
    ((_, _, _, text, _),) = espnet(wav)
    return text


def run_ours(transcriber: Transcriber, wav: npt.NDArray[np.float32]) -> str:
    """Return our text, by windows rather than pauses."""
    options = DecodeOptions(vad=False, batch_seconds=float(WINDOW_S * WINDOWS_AT_ONCE))
    return transcriber.transcribe(wav, sample_rate=RATE, language="eng", options=options).text


if __name__ == "__main__":
    sys.exit(main())
