"""Models from training to shipping: train, average, pack, convert, demo."""

import argparse
import sys
from pathlib import Path

from speechnar.cli.options import OK, Verb, add_computing, add_seed, add_threads, set_threads
from speechnar.cli.output import log, put
from speechnar.errors import ConfigError
from speechnar.extras import needs


def _describe_convert(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", metavar="SRC", type=Path)
    parser.add_argument("destination", metavar="DST", type=Path)
    parser.add_argument(
        "--skip-decoder", action="store_true", help="of ESPnet's hybrid models, keep only the CTC branch"
    )
    parser.add_argument("--language", metavar="CODE", help="of MMS, the language to keep, as its files are named")


def _describe_train(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("config", metavar="CONFIG", type=Path, help="YAML file")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="change the configuration, e.g. train.seed=1")
    parser.add_argument("--exp", required=True, type=Path, metavar="DIR", help="where checkpoints and the model go")
    add_threads(parser)


def _describe_finetune(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help="shipped name, folder or owner/name of a recogniser")
    parser.add_argument(
        "data", metavar="DATA", type=Path,
        help="a Kaldi directory, a .csv with the columns file and text, or a folder with a .txt beside each recording",
    )  # fmt: skip
    parser.add_argument("-o", "--out", required=True, type=Path, metavar="DIR", help="the new model is DIR/model")
    parser.add_argument("--dev", type=Path, metavar="DATA", help="to measure by; default: a tenth of DATA is kept back")
    parser.add_argument("-l", "--language", metavar="LANG", help="of the recordings; default: what DATA says")
    parser.add_argument("--updates", type=int, metavar="N", help="default: each recording is heard 12 times")
    parser.add_argument("--lr", type=float, metavar="X", help="default: 2e-4, with --lora 1e-3")
    parser.add_argument("--lora", type=int, metavar="RANK", help="train low-rank updates instead of all weights")
    add_seed(parser)
    add_threads(parser)


def _describe_average(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("exp", metavar="EXP", type=Path)
    parser.add_argument("--num-best", type=int, default=5, metavar="N", help="default: %(default)s")


def _describe_pack(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", metavar="SRC", type=Path)
    parser.add_argument("destination", metavar="DST", type=Path)
    parser.add_argument("--card", type=Path, required=True, metavar="FILE", help="model card in Markdown")
    parser.add_argument(
        "--dtype", choices=("float16", "bfloat16", "float32"), default="float16", help="default: %(default)s"
    )
    parser.add_argument("--decoders", metavar="A,B", help="of a joint model, those to keep beside CTC; default: all")


def _describe_export(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "model", metavar="MODEL",
        help="shipped name, folder or owner/name of a recogniser, or of a model of kind fretna_ctc, vocos or tts",
    )  # fmt: skip
    parser.add_argument("destination", metavar="DST", type=Path)
    parser.add_argument(
        "--target", choices=("speechnar", "sherpa", "sherpa-online", "onnx-asr"), default="speechnar",
        help="who reads it; default: %(default)s",
    )  # fmt: skip
    parser.add_argument("--decoder", metavar="NAME", help="ctc, paraformer or cassnat; default: the model's")
    parser.add_argument("--int8", action="store_true", help="weights in 8 bits: a quarter of the size")


def _describe_demo(parser: argparse.ArgumentParser) -> None:
    add_computing(parser)
    parser.add_argument("--port", type=int, default=7860, help="default: %(default)s")


def _convert(args: argparse.Namespace) -> int:
    from speechnar.interop import convert  # noqa: PLC0415

    report = convert(args.source, args.destination, skip_decoder=args.skip_decoder, language=args.language)
    put(f"{report}\n")
    return OK


def _train(args: argparse.Namespace) -> int:
    set_threads(args.threads)
    from speechnar.config import load_config  # noqa: PLC0415
    from speechnar.train.run import RunConfig, run_training  # noqa: PLC0415

    result = run_training(load_config(args.config, RunConfig, args.overrides), args.exp)
    shown = " ".join(f"{name} {value:.4g}" for name, value in result.best_metrics.items())
    log().info("best at step %d of %d: %s", result.best_step, result.step, shown)
    put(f"{args.exp / 'model'}\n")
    return OK


def _finetune(args: argparse.Namespace) -> int:
    set_threads(args.threads)
    with needs("train"):
        from speechnar.evaluation.finetuning import finetune  # noqa: PLC0415

    report = finetune(
        args.model,
        args.data,
        args.out,
        dev=args.dev,
        language=args.language,
        updates=args.updates,
        lr=args.lr,
        lora=args.lora,
        seed=args.seed,
    )
    log().info("%s", report)
    put(f"{report.model}\n")
    return OK


def _average(args: argparse.Namespace) -> int:
    from speechnar.train.run import average  # noqa: PLC0415

    put(f"{average(args.exp, args.num_best)}\n")
    return OK


def _pack(args: argparse.Namespace) -> int:
    from speechnar.models.pack import pack_model  # noqa: PLC0415

    card = args.card.read_text(encoding="utf-8")
    decoders = None if args.decoders is None else args.decoders.split(",")
    pack_model(args.source, args.destination, card=card, dtype=args.dtype, decoders=decoders)
    return OK


def _export(args: argparse.Namespace) -> int:
    from speechnar.export.model import export_model  # noqa: PLC0415
    from speechnar.models.base import load_model  # noqa: PLC0415
    from speechnar.published import obtain_model  # noqa: PLC0415

    folder = obtain_model(args.model)
    written = export_model(
        load_model(folder),
        folder,
        args.destination,
        target=args.target,
        decoder=args.decoder,
        precision="int8" if args.int8 else "fp32",
    )
    put(f"{written}\n")
    return OK


def _demo(args: argparse.Namespace) -> int:
    set_threads(args.threads)
    from importlib import import_module  # noqa: PLC0415

    checkout = Path(__file__).parents[2]
    if not (checkout / "demo" / "app.py").is_file():
        raise ConfigError("the demo is part of the repository, not of the installed package; run this command there")
    if str(checkout) not in sys.path:
        sys.path.insert(0, str(checkout))
    try:
        app = import_module("demo.app")
    except ModuleNotFoundError as error:
        raise ConfigError(f"the demo needs {error.name}; install speechnar[demo]") from None
    app.main(device=args.device, port=args.port)
    return OK


VERBS = {
    "convert": Verb(
        "turn a checkpoint of ESPnet, FunASR, cassnat_asr, audiocraft or transformers into a model folder",
        _describe_convert,
        _convert,
    ),
    "train": Verb("train a model, or continue a run", _describe_train, _train, repeated="overrides"),
    "finetune": Verb("adapt a recogniser to one's own recordings", _describe_finetune, _finetune),
    "average": Verb("export the average of a run's best checkpoints", _describe_average, _average),
    "pack": Verb("a trained model at half the size, with its card", _describe_pack, _pack),
    "export": Verb("a model as ONNX, for this package, sherpa-onnx or onnx-asr", _describe_export, _export),
    "demo": Verb("a web page on this machine", _describe_demo, _demo),
}
