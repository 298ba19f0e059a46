"""The parallel decoders against autoregressive ones on one encoder, in one process: samples in, tokens out, on a CPU.

The baselines are our own autoregressive decoder with cached keys and values (the strong one), and ESPnet's
``BatchBeamSearch`` over the same decoder weights, which projects keys and values anew for every token (the
reference-style one, against which papers measure). All systems read the same encoder output, so that ratios of
decoders are not ratios of encoders.

The weights are random, so the number of tokens is planted, the same for all: ``--tokens_per_second`` (3.5, that of
subwords in read English; characters would be four times as many, and the autoregressive decoders that much slower).
CTC posteriors, computed like trained ones' and then replaced, have a spike per token, every fifth one unsure, and as
many unsure blanks; the bias of Paraformer's predictor is fitted; the autoregressive decoders stop at the number. The
sentence end is made improbable for all, so that CASS-NAT names one slot more. Autoregressive decoders give no times,
the others do.
"""

import argparse
import logging
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor

from benchmarks.result import RESULTS, ROOT, load_average, write_result
from speechnar.config import parse_config, read_yaml
from speechnar.decode.ctc import greedy
from speechnar.models.asr.cassnat import CassNatConfig, CassNatHead, CassNatHeadConfig
from speechnar.models.asr.owsm_ctc import OwsmCtc, OwsmCtcConfig
from speechnar.models.asr.paraformer_head import ParaformerHead, ParaformerHeadConfig
from speechnar.models.asr.transformer_ar import TransformerArHead, TransformerArHeadConfig
from speechnar.nn.embedder import EncodedSpeech
from speechnar.nn.encoder import ConformerConfig
from speechnar.text.tokenizer import CharTokenizer
from tests.reference import espnet_decoder, espnet_models
from tests.unit.tiny import speechlike

BEAM, CTC_WEIGHT = 10, 0.3
RANKED_SAMPLES = 16
NEVER = -20.0
"""Added to the logit of what a decoder is not to emit."""
CTC, CASSNAT, PARAFORMER = "CTC greedy", "CASS-NAT best path", "Paraformer"
AR_GREEDY, AR_BEAM = "AR greedy", f"AR beam {BEAM}"
REFERENCE = f"ESPnet AR beam {BEAM}"
BASELINES = (AR_GREEDY, AR_BEAM, REFERENCE)
CLAIMS = (
    {"system": CTC, "faster": "3 to 4x; 20x long-form", "than": "OWSM, greedy", "source": "Peng et al. 2024"},
    {"system": CASSNAT, "faster": "about 24x", "than": "autoregressive, beam search", "source": "Fan et al. 2023"},
    {
        "system": PARAFORMER,
        "faster": "more than 10x",
        "than": "autoregressive, beam search",
        "source": "Gao et al. 2022",
    },
)
"""What the papers say, on their GPUs."""


@dataclass(frozen=True)
class Size:
    """One encoder and the heads on it."""

    name: str
    trunk: OwsmCtcConfig
    vocab_size: int
    cassnat: CassNatHeadConfig
    paraformer: ParaformerHeadConfig
    transformer_ar: TransformerArHeadConfig


def tiny() -> Size:
    """Return a size too small to say anything, to try the script."""
    encoder = ConformerConfig(model_dim=32, num_layers=1, num_heads=2, ff_dim=32, subsampling_channels=8)
    return Size(
        "tiny",
        _plain(encoder),
        40,
        CassNatHeadConfig.debug(),
        ParaformerHeadConfig.debug(),
        TransformerArHeadConfig.debug(),
    )


def small() -> Size:
    """Return the encoder of conf/ctc_conformer.yaml with the vocabulary and the heads of recipes/joint/s2t."""
    values = read_yaml(ROOT / "conf" / "ctc_conformer.yaml")["model"]
    return Size(
        "small",
        parse_config(values, OwsmCtcConfig, source="conf/ctc_conformer.yaml"),
        94,
        CassNatHeadConfig(ff_dim=768, embedder_ff_dim=768),
        ParaformerHeadConfig(num_layers=4, ff_dim=768),
        TransformerArHeadConfig(num_layers=4, ff_dim=768),
    )


def paper() -> Size:
    """Return CASS-NAT's published encoder size (12 blocks of width 512) and head, and six layers of the others."""
    encoder = ConformerConfig(model_dim=512, num_layers=12, num_heads=8, ff_dim=2048, norm_eps=1e-5)
    return Size(
        "paper",
        _plain(encoder),
        5000,
        CassNatConfig.published().head,
        ParaformerHeadConfig(num_layers=6, num_heads=8, ff_dim=2048),
        TransformerArHeadConfig(num_layers=6, num_heads=8, ff_dim=2048),
    )


def _plain(encoder: ConformerConfig) -> OwsmCtcConfig:
    return OwsmCtcConfig(encoder=encoder, interctc_layers=(), interctc_asr_only=(), prompt=None, normalize="utterance")


SIZES = {"tiny": tiny, "small": small, "paper": paper}


@dataclass(frozen=True)
class Models:
    """An encoder and its decoders, with random weights."""

    trunk: OwsmCtc
    cassnat: CassNatHead
    paraformer: ParaformerHead
    transformer_ar: TransformerArHead
    espnet: Any
    """ESPnet's decoder with the weights of ``transformer_ar``, or None."""

    def num_parameters(self, *names: str) -> int:
        """Count those of the attributes ``names``."""
        return sum(p.numel() for name in names for p in getattr(self, name).parameters())


@dataclass(frozen=True)
class Case:
    """A batch of sounds, and what is planted in its encoder output."""

    seconds: float
    wav: Tensor
    wav_lens: Tensor
    log_probs: Tensor
    """(B, T, V)"""
    num_tokens: int
    """Of each utterance."""


def main() -> int:
    """Write a result for each size and batch."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=["small", "paper"])
    parser.add_argument("--seconds", type=float, nargs="+", default=[5.0, 10.0, 20.0, 30.0])
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--samples", type=int, nargs="+", default=[8, 16, 32], help="of CASS-NAT's ESA")
    parser.add_argument("--tokens_per_second", type=float, default=3.5)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--reference_runs", type=int, default=2, help="runs of ESPnet, after one; 0 counts that one")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--no_espnet", action="store_true", help="leave out the reference-style baseline")
    parser.add_argument("--quick", action="store_true", help="a tiny size and short sounds, to try the script")
    parser.add_argument("--output", type=Path, default=RESULTS, help="default: %(default)s")
    args = parser.parse_args()
    if args.quick:
        args.sizes, args.seconds, args.batches, args.samples = ["tiny"], [1.0, 2.0], [1, 2], [2, RANKED_SAMPLES]
        args.runs = args.reference_runs = 1
    torch.set_num_threads(args.threads)
    with tempfile.TemporaryDirectory() as folder:
        if not args.no_espnet:
            espnet_models.import_espnet(Path(folder), "asr")
            logging.getLogger("espnet").setLevel(logging.ERROR)  # it warns of every length limit
        for name in args.sizes:
            models = build(SIZES[name](), espnet=not args.no_espnet)
            reference: dict[float, Reference] = {}
            for batch in args.batches:
                load = load_average()
                rows = []
                for seconds in args.seconds:
                    case = make_case(models, seconds, batch, args.tokens_per_second)
                    found = measure(models, case, args.samples, runs=args.runs)
                    if models.espnet is not None:
                        if seconds not in reference:  # it takes minutes; a batch is so many utterances
                            reference[seconds] = measure_reference(models, case, args.reference_runs)
                        found.append(reference_row(case, reference[seconds], found))
                    rows += compare(found)
                write(models, rows, args, name=name, load=load)
    return 0


@torch.no_grad()
def build(size: Size, *, espnet: bool) -> Models:
    """Return models of ``size`` with random weights."""
    torch.manual_seed(0)
    # Any characters will do; the last piece begins and ends sentences.
    pieces = ("<blank>", "<unk>", *(chr(0x4E00 + i) for i in range(size.vocab_size - 4)), "<sos>", "<eos>")
    tokenizer = CharTokenizer(pieces)
    dim, last = size.trunk.encoder.model_dim, size.vocab_size - 1
    ids = {"vocab_size": size.vocab_size, "sos_id": last, "eos_id": last, "blank_id": 0}
    theirs = None
    if espnet:
        ar = size.transformer_ar
        sizes = {"num_layers": ar.num_layers, "num_heads": ar.num_heads, "ff_dim": ar.ff_dim}
        theirs = espnet_decoder.build_decoder(size.vocab_size, dim, **sizes)
        theirs.output_layer.bias[[0, last]] += NEVER
        ours = espnet_decoder.copy_to_ours(theirs, num_heads=ar.num_heads)
    else:
        ours = TransformerArHead(size.transformer_ar, dim, **ids)
        ours.decoder.output.bias[[0, last]] += NEVER
    cassnat = CassNatHead(size.cassnat, dim, **ids)
    cassnat.out.bias[last] += NEVER
    return Models(
        trunk=OwsmCtc(size.trunk, tokenizer).eval(),
        cassnat=cassnat.eval(),
        paraformer=ParaformerHead(size.paraformer, dim, **ids).eval(),
        transformer_ar=ours.eval(),
        espnet=theirs,
    )


@torch.no_grad()
def make_case(models: Models, seconds: float, batch: int, tokens_per_second: float) -> Case:
    """Return ``batch`` sounds, plant ``tokens_per_second`` of tokens, and fit Paraformer's predictor to them."""
    wav = torch.stack([torch.from_numpy(speechlike(seconds, seed=seed)) for seed in range(batch)])
    wav_lens = torch.full((batch,), wav.size(1))
    num_tokens = max(1, round(seconds * tokens_per_second))
    out = models.trunk.encode(wav, wav_lens)
    log_probs = plant_tokens(batch, out.enc.size(1), out.log_probs.size(2), num_tokens)
    predictor = models.paraformer.embedder
    valid = torch.ones(out.enc.shape[:2], dtype=torch.bool)
    low, high = -20.0, 20.0
    for _ in range(30):
        predictor.proj.bias.fill_((low + high) / 2)
        too_many = predictor.alphas(out.enc, valid).sum(1).mean() > num_tokens
        low, high = (low, (low + high) / 2) if too_many else ((low + high) / 2, high)
    return Case(seconds, wav, wav_lens, log_probs, num_tokens)


def plant_tokens(batch: int, num_frames: int, vocab_size: int, num_tokens: int) -> Tensor:
    """Return CTC log-probabilities (B, T, V) of ``num_tokens`` spikes; the last id and the blank, 0, are no tokens."""
    generator = torch.Generator().manual_seed(0)
    sure, unsure, second = 0.97, 0.6, 0.37
    rest = 0.03 / (vocab_size - 2)
    probs = torch.full((batch, num_frames, vocab_size), rest)
    probs[..., 0] = sure
    frames = ((torch.arange(num_tokens) + 0.5) * num_frames / num_tokens).long()
    # Neighbours differ: a repeated token would need a blank between.
    steps = torch.randint(1, vocab_size - 2, (batch, num_tokens), generator=generator)
    tokens = steps.cumsum(1) % (vocab_size - 2) + 1
    rows = torch.arange(batch)[:, None]
    probs[rows, frames, 0], probs[rows, frames, tokens] = rest, sure
    doubtful, doubted = frames[::5], tokens[:, ::5]
    probs[rows, doubtful, 0], probs[rows, doubtful, doubted] = second, unsure
    # Half way to the next spike, where there is room, the blank is as unsure.
    between = (doubtful + num_frames // (2 * num_tokens)).clamp(max=num_frames - 1)
    between = between[(between[:, None] != frames).all(1)]
    others = tokens[:, : len(between)]
    probs[rows, between, 0], probs[rows, between, others] = unsure, second
    return (probs / probs.sum(-1, keepdim=True)).log()


def systems(models: Models, case: Case, samples: Sequence[int]) -> dict[str, Callable[[EncodedSpeech], Any]]:
    """Return what decodes the encoder output of ``case``, by name, without the reference."""
    # Half a token more, so that rounding down gives the number.
    ratio = (case.num_tokens + 0.5) / case.log_probs.size(1)
    exactly = {"min_len_ratio": ratio, "max_len_ratio": ratio, "times": False}
    ar, cassnat = models.transformer_ar, models.cassnat
    esa = {f"CASS-NAT ESA {n}": partial(cassnat.decode, num_alignments=n) for n in samples}
    most = max(samples)  # what the paper does: all alignments drawn are decoded
    esa[f"CASS-NAT ESA {most}, all decoded"] = partial(cassnat.decode, num_alignments=most, num_kept=None)
    ranked = partial(cassnat.decode, num_alignments=RANKED_SAMPLES, ranker=ar.score)
    return {
        CTC: lambda speech: greedy(speech.log_probs, speech.lens, 0),
        CASSNAT: cassnat.decode,
        **esa,
        f"CASS-NAT ESA {RANKED_SAMPLES}, ranked by AR": ranked,
        PARAFORMER: models.paraformer.decode,
        AR_GREEDY: partial(ar.decode, **exactly),
        AR_BEAM: partial(ar.decode, beam_size=BEAM, ctc_weight=CTC_WEIGHT, **exactly),
    }


@torch.no_grad()
def measure(models: Models, case: Case, samples: Sequence[int], *, runs: int) -> list[dict[str, Any]]:
    """Return a row per system: medians of ``runs`` after one that does not count, all systems in turn.

    The sounds are encoded once a run, and all systems decode that.
    """
    load = load_average()
    named = systems(models, case, samples)
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in named}
    tokens: dict[str, list[list[int]]] = {}
    for run in range(runs + 1):
        speech, encode_s = timed(lambda: encode(models, case))
        for name, decode in named.items():
            paths, decode_s = timed(partial(decode, speech))
            tokens[name] = [path.tokens for path in paths]
            if run:
                times[name].append((encode_s, decode_s))
    counts = {name: [len(row) for row in found] for name, found in tokens.items()}
    counts[PARAFORMER] = models.paraformer.embedder(speech).lens.tolist()  # what fired, as it costs
    rows = [row_of(case, name, times[name], counts[name], load) for name in named]
    rows[-1]["first_tokens"] = tokens[AR_BEAM][0]
    return rows


@dataclass(frozen=True)
class Reference:
    """What ESPnet made of one utterance."""

    times_s: list[float]
    """Of decoding alone, in each run."""
    tokens: list[int]


@torch.no_grad()
def measure_reference(models: Models, case: Case, runs: int) -> Reference:
    """Search the first utterance of ``case`` with ESPnet, which searches utterance by utterance."""
    search = espnet_decoder.build_search(
        models.espnet, espnet_decoder.GivenCtc(case.log_probs[:1]), beam_size=BEAM, ctc_weight=CTC_WEIGHT
    )
    limits = {"maxlenratio": -case.num_tokens, "minlenratio": -(case.num_tokens - 1)}
    enc = encode(models, case).enc[0]
    found, first_s = timed(lambda: search(enc, **limits))
    times = [timed(lambda: search(enc, **limits))[1] for _ in range(runs)]
    return Reference(times or [first_s], found[0].yseq[1:-1].tolist())


def reference_row(case: Case, reference: Reference, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return ESPnet's row: each utterance takes what the first one took, behind the encoder of the other rows."""
    batch = len(case.wav)
    encode_s = rows[0]["whole_s"] - rows[0]["decode_s"]
    times = [(encode_s, batch * decode_s) for decode_s in reference.times_s]
    row = row_of(case, REFERENCE, times, [len(reference.tokens)] * batch, load_average())
    same = reference.tokens == rows[-1]["first_tokens"]
    return {**row, "utterances_timed": 1, "same_tokens_as_ours": same}


def compare(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the rows with how many times faster each is than the baselines, decoding and as a whole."""
    for row in rows:
        row.pop("first_tokens", None)
        for kind in ("decode_s", "whole_s"):
            of = {other["system"]: other[kind] for other in rows if other["system"] in BASELINES}
            row[f"times_faster_{kind[:-2]}"] = {name: round(s / row[kind], 2) for name, s in of.items()}
    return rows


def encode(models: Models, case: Case) -> EncodedSpeech:
    """Return encoder output with the planted posteriors in place of those just computed."""
    out = models.trunk.encode(case.wav, case.wav_lens)
    return EncodedSpeech(enc=out.enc, lens=out.lens, log_probs=case.log_probs)


def timed(call: Callable[[], Any]) -> tuple[Any, float]:
    """Return what ``call`` returns and the seconds it took."""
    started = time.perf_counter()
    result = call()
    return result, time.perf_counter() - started


def row_of(
    case: Case, name: str, times: Sequence[tuple[float, float]], counts: Sequence[int], load: float
) -> dict[str, Any]:
    """Return medians of the (encoding, decoding) seconds in ``times``, and what they are medians of."""
    whole_s = median(sum(pair) for pair in times)
    return {
        "system": name,
        "seconds": case.seconds,
        "batch": len(case.wav),
        "decode_s": round(median(decode_s for _, decode_s in times), 5),
        "whole_s": round(whole_s, 5),
        "rtf": round(whole_s / (case.seconds * len(case.wav)), 5),
        "tokens": round(sum(counts) / len(counts), 2),
        "runs": len(times),
        "load_before": load,
    }


def write(models: Models, rows: list[dict[str, Any]], args: argparse.Namespace, *, name: str, load: float) -> None:
    """Write the result of one size and batch; its headline is the length nearest to 10 s."""
    seconds, batch = min((row["seconds"] for row in rows), key=lambda s: abs(s - 10)), rows[0]["batch"]
    at = {row["system"]: row for row in rows if row["seconds"] == seconds}
    slowest = REFERENCE if REFERENCE in at else AR_BEAM
    millions = {
        part: models.num_parameters(part) / 1e6 for part in ("trunk", "cassnat", "paraformer", "transformer_ar")
    }
    claims = [{**claim, "ours_whole": at[claim["system"]]["times_faster_whole"]} for claim in CLAIMS]
    shown = (CTC, CASSNAT, f"CASS-NAT ESA {RANKED_SAMPLES}", PARAFORMER, *BASELINES)
    write_result(
        f"speed_decoders_{name}_batch{batch}",
        what=f"decoders on one {name} encoder ({millions['trunk']:.1f} M random parameters; CASS-NAT "
        f"{millions['cassnat']:.1f}, Paraformer {millions['paraformer']:.1f}, AR {millions['transformer_ar']:.1f} M), "
        f"batch {batch}: {seconds:g} s of sound to {at[AR_GREEDY]['tokens']:g} tokens on a CPU",
        threads=args.threads,
        runs=args.runs,
        load_before=load,
        a={"label": CASSNAT, "median_s": at[CASSNAT]["whole_s"], "cases": rows, "claims_of_papers": claims},
        b={"label": slowest, "median_s": at[slowest]["whole_s"]},
        result="; ".join(f"{system} {at[system]['whole_s']:.3f} s" for system in shown if system in at),
        note=f"{args.tokens_per_second:g} tokens per second planted; times include front end and encoder"
        + (f"; ESPnet: {args.reference_runs} runs of one utterance, times the batch" if models.espnet else ""),
        folder=args.output,
    )


if __name__ == "__main__":
    sys.exit(main())
