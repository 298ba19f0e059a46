"""Errors and time of a recogniser in every precision, on test sets: what ``auto`` may choose.

Each set is decoded by all precisions alternately, some utterances at a time, so that whatever else the machine does
burdens all alike; processor time is what is compared. Whether one makes more errors than ``fp32`` is told by the
differences of utterances: their sum is noise where it is within the 95 % interval around 0.

With ``--onnx`` it is what `speechnar export` writes, in float32 and in 8 bits, that is measured beside ``fp32``; with
``--readers`` the same as sherpa-onnx and onnx-asr read it, each from an export of its own.
"""

import argparse
import json
import math
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch

from benchmarks.result import RESULTS, load_average, write_result
from speechnar import DecodeOptions, Transcriber
from speechnar.asr.clips import CTC
from speechnar.data.dataset import read_utterance
from speechnar.data.kaldi import Utterance, read_kaldi_dir
from speechnar.export.model import Target, export_model
from speechnar.export.recogniser import export_onnx
from speechnar.hub import DEFAULT_MODEL
from speechnar.metrics.error_rate import UNSPACED_LANGUAGES, ErrorRate, cer, wer
from speechnar.models.base import load_model
from speechnar.models.prepare import precisions_of
from speechnar.published import obtain_model

EXACT = "fp32"
AT_ONCE = 16
"""Utterances between two precisions."""


class Hears(Protocol):
    """A `Transcriber`, or another program that hears as one."""

    @property
    def sample_rate(self) -> int:
        """In Hz."""
        ...

    def transcribe(self, audio: list[Any], *, sample_rate: int, options: DecodeOptions) -> Sequence[Any]:
        """Return for each recording what has a ``text``."""
        ...


@dataclass(frozen=True)
class Text:
    """What another program writes."""

    text: str


@dataclass
class Reader:
    """Another program that reads an export, one recording after the other."""

    hear: Callable[[npt.NDArray[np.float32]], str]
    sample_rate: int = 16000

    def transcribe(self, audio: list[Any], *, sample_rate: int, options: DecodeOptions) -> Sequence[Text]:
        """Return the text of each recording; what an export holds takes no options."""
        assert sample_rate == self.sample_rate
        return [Text(self.hear(np.asarray(wav, dtype=np.float32)).strip()) for wav in audio]


@dataclass
class Outcome:
    """What one precision made of one test set."""

    hyps: list[str] = field(default_factory=list)
    cpu_s: float = 0.0


@dataclass(frozen=True)
class TestSet:
    """A data directory, decoded."""

    __test__ = False  # pytest is not to collect it

    name: str
    utterances: Sequence[Utterance]
    outcomes: dict[str, Outcome]

    @property
    def lang(self) -> str:
        """Return the language of most utterances."""
        return statistics.mode(utterance.lang or "eng" for utterance in self.utterances)

    def rate(self, precision: str) -> ErrorRate:
        """Return its word error rate, or that of characters where words have no spaces."""
        count = cer if self.lang in UNSPACED_LANGUAGES else wer
        return count([utterance.text for utterance in self.utterances], self.outcomes[precision].hyps, lang=self.lang)

    def difference(self, precision: str) -> tuple[float, float]:
        """Return by how much its error rate is above that of `EXACT`, and half the 95 % interval of that."""
        count = cer if self.lang in UNSPACED_LANGUAGES else wer
        refs = [utterance.text for utterance in self.utterances]

        def errors(name: str) -> list[int]:
            pairs = zip(refs, self.outcomes[name].hyps, strict=True)
            return [count([ref], [hyp], lang=self.lang).errors for ref, hyp in pairs]

        differences = [a - b for a, b in zip(errors(precision), errors(EXACT), strict=True)]
        deviation = statistics.stdev(differences) if len(differences) > 1 else 0.0
        total = self.rate(EXACT).ref_len
        return sum(differences) / total, 1.96 * deviation * math.sqrt(len(differences)) / total

    def to_dict(self, precision: str) -> dict[str, Any]:
        """Return what is written of ``precision``."""
        rate, (difference, interval) = self.rate(precision), self.difference(precision)
        return {
            "utterances": len(self.utterances),
            "unit": rate.unit,
            "errors": rate.errors,
            "of": rate.ref_len,
            "rate": round(rate.rate, 5),
            "difference": round(difference, 5),
            "interval": round(interval, 5),
            "same_texts": sum(
                a == b for a, b in zip(self.outcomes[precision].hyps, self.outcomes[EXACT].hyps, strict=True)
            ),
            "cpu_s": round(self.outcomes[precision].cpu_s, 2),
        }


def main() -> int:
    """Write a result for each precision but `EXACT`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data_dirs", nargs="+", type=Path, metavar="DATA_DIR", help="NAME/test is called NAME")
    parser.add_argument("--model", default=DEFAULT_MODEL, help="default: %(default)s")
    parser.add_argument("--decoder", help="default: the model's first")
    parser.add_argument("--onnx", action="store_true", help="measure exported graphs")
    parser.add_argument("--readers", action="store_true", help="measure sherpa-onnx and onnx-asr, which read exports")
    parser.add_argument("--limit", type=int, metavar="N", help="utterances of each set; default: all")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--output", type=Path, default=RESULTS, help="default: %(default)s")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    load = load_average()
    with tempfile.TemporaryDirectory() as folder:
        exact = Transcriber.load(args.model, device="cpu", precision=EXACT)
        model = exact.name
        transcribers: dict[str, Hears] = {EXACT: exact}
        if args.onnx:
            transcribers |= export(args, Path(folder))
        if args.readers:
            transcribers |= open_readers(args, Path(folder))
        if not (args.onnx or args.readers):
            transcribers |= load_others(args.model)
        # Other readers know no words.
        options = DecodeOptions(decoder=args.decoder, word_weight=0 if args.readers else None)
        sets = [decode(path, transcribers, options, args.limit) for path in args.data_dirs]
    for name in [*transcribers][1:]:
        write(sets, name, model, args, load)
    return 0


def load_others(model: str) -> dict[str, Transcriber]:
    """Return the model in each precision but `EXACT`."""
    precisions = precisions_of(torch.device("cpu"))
    return {name: Transcriber.load(model, device="cpu", precision=name) for name in precisions if name != EXACT}


def export(args: argparse.Namespace, folder: Path) -> dict[str, Transcriber]:
    """Return the model as graphs, which are written into ``folder``."""
    source = obtain_model(args.model)
    exported = {}
    for precision in ("fp32", "int8"):
        out = export_onnx(load_model(source), source, folder / precision, decoder=args.decoder, precision=precision)
        exported[f"onnx {precision}"] = Transcriber.load(out, engine="onnx")
    return exported


def open_readers(args: argparse.Namespace, folder: Path) -> dict[str, Reader]:
    """Return other programs with the exports that are written for them into ``folder``."""
    import onnx_asr  # noqa: PLC0415  # these two only where they are measured
    import onnxruntime  # noqa: PLC0415
    import sherpa_onnx  # noqa: PLC0415

    source = obtain_model(args.model)

    def write(target: Target, decoder: str | None) -> Path:
        return export_model(load_model(source), source, folder / target, target=target, decoder=decoder)

    sherpa = write("sherpa", args.decoder)
    reader = json.loads((sherpa / "reader.json").read_text(encoding="utf-8"))
    files = {name: str(sherpa / value) for name, value in reader["arguments"].items() if isinstance(value, str)}
    options = {**reader["arguments"], **files, "num_threads": args.threads}
    recognizer = getattr(sherpa_onnx.OfflineRecognizer, reader["method"])(**options)

    def hear(wav: npt.NDArray[np.float32]) -> str:
        stream = recognizer.create_stream()
        stream.accept_waveform(Reader.sample_rate, wav)
        recognizer.decode_stream(stream)
        return str(stream.result.text)

    readers = {"sherpa-onnx": Reader(hear)}
    if args.decoder in (None, CTC):
        threads = onnxruntime.SessionOptions()
        threads.intra_op_num_threads = args.threads
        model = onnx_asr.load_model("whisper-ort", write("onnx-asr", None), sess_options=threads)
        readers["onnx-asr"] = Reader(lambda wav: str(model.recognize(wav, sample_rate=Reader.sample_rate)))
    return readers


def decode(folder: Path, transcribers: dict[str, Hears], options: DecodeOptions, limit: int | None) -> TestSet:
    """Decode a data directory by all of ``transcribers``, in turns."""
    utterances = read_kaldi_dir(folder)[:limit]
    outcomes = {name: Outcome() for name in transcribers}
    for start in range(0, len(utterances), AT_ONCE):
        for name, transcriber in transcribers.items():
            rate = transcriber.sample_rate
            wavs = [read_utterance(utterance, rate) for utterance in utterances[start : start + AT_ONCE]]
            started = time.process_time()
            found = transcriber.transcribe(list(wavs), sample_rate=rate, options=options)
            outcomes[name].cpu_s += time.process_time() - started
            outcomes[name].hyps += [transcript.text for transcript in found]
    name = folder.parent.name if folder.name == "test" else folder.name
    return TestSet(name, utterances, outcomes)


def write(sets: Sequence[TestSet], precision: str, model: str, args: argparse.Namespace, load: float) -> None:
    """Write the result of one precision beside `EXACT`."""
    sides = []
    for name in (precision, EXACT):
        seconds = sum(each.outcomes[name].cpu_s for each in sets)
        rates = {each.name: each.to_dict(name) for each in sets}
        sides.append({"label": f"speechnar {name}", "median_s": round(seconds, 3), "sets": rates})
    a, b = sides
    told = "; ".join(
        f"{name} {100 * b['sets'][name]['rate']:.2f} → {100 * row['rate']:.2f} % (± {100 * row['interval']:.2f})"
        for name, row in a["sets"].items()
    )
    suffix = "" if args.decoder is None else f"_{args.decoder}"
    write_result(
        f"precision_{model}{suffix}_{precision.replace(' ', '_')}",
        what=f"Errors of {model} in {precision} beside {EXACT}, on recordings of strangers",
        threads=args.threads,
        runs=1,
        load_before=load,
        a=a,
        b=b,
        result=f"{b['median_s'] / a['median_s']:.2f} times as fast; error rate {told}",
        note="seconds are processor time of all sets, not a median",
        folder=args.output,
    )


if __name__ == "__main__":
    sys.exit(main())
