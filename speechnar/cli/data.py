"""What is done to data directories before training: download, describe, tokenizer, words, durations, codes, features,
distil."""

import argparse
import json
from pathlib import Path

from speechnar.cli.corpus import add_engine, check_engine, parts_of, run_stage_of
from speechnar.cli.options import OK, Verb, add_direction, add_seed, add_threads, set_threads
from speechnar.cli.output import log, put


def _describe_download(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("url", metavar="URL")
    parser.add_argument("dest", type=Path, metavar="FILE")
    parser.add_argument("--sha256", metavar="HEX")


def _describe_describe(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("tokenizer", type=Path, metavar="TOKENIZER")
    _add_dirs(parser)


def _describe_tokenizer(parser: argparse.ArgumentParser) -> None:
    _add_dirs(parser)
    parser.add_argument("out", type=Path, metavar="OUT")
    parser.add_argument("--vocab-size", type=int, metavar="N", help="not for phonemes")
    parser.add_argument(
        "--model-type", choices=("unigram", "bpe", "char", "phonemes"), default="unigram", help="default: %(default)s"
    )
    parser.add_argument("--languages", nargs="*", default=[], metavar="LANG", help="pieces <LANG> and <asr>")
    parser.add_argument("--translate-to", nargs="*", default=[], metavar="LANG", help="pieces <st_LANG>")
    parser.add_argument(
        "--cut", type=Path, metavar="MODEL", help="train none; keep what they need of this model's pieces"
    )
    parser.add_argument("--min-count", type=int, default=1, metavar="N", help="with --cut, leave rarer pieces out")


def _describe_words(parser: argparse.ArgumentParser) -> None:
    _add_dirs(parser)
    parser.add_argument("out", type=Path, metavar="OUT")
    parser.add_argument("--min-count", type=int, default=1, metavar="N", help="leave rarer words out")


def _describe_durations(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("tokenizer", type=Path, metavar="TOKENIZER")
    _add_dirs(parser, "each gets a file durations")
    parser.add_argument("--aligner", type=Path, metavar="OUT", help="a model folder to write the sounds to")


def _describe_codes(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("codec", type=Path, metavar="CODEC", help="model folder of kind encodec")
    _add_dirs(parser, "each gets a file codes.safetensors")
    parser.add_argument("--min-seconds", type=float, default=0.0, help="shorter sound is followed by silence")
    parser.add_argument("-d", "--device", default="cpu", help="default: %(default)s")
    add_threads(parser)
    add_engine(parser)


def _describe_features(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("config", type=Path, metavar="CONFIG", help="of the training to come, which is to start")
    _add_dirs(parser, "each gets files features.f16 and features.json")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change the configuration")
    parser.add_argument("--batch-seconds", type=float, default=120.0, metavar="S", help="default: %(default)s")
    parser.add_argument("--missing", action="store_true", help="leave directories alone that have those of this model")
    add_threads(parser)
    add_engine(parser)


def _describe_distil(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", type=Path, metavar="MODEL", help="of kind reta")
    parser.add_argument("data_dir", type=Path, metavar="DATA_DIR")
    parser.add_argument("out", type=Path, metavar="OUT", help="a directory of texts; left alone if it is complete")
    add_direction(parser)
    parser.add_argument("--beam-size", type=int, default=4, metavar="N", help="default: %(default)s")
    parser.add_argument("--token-reward", type=float, default=0.0, metavar="X", help="default: %(default)s")
    parser.add_argument("--raw-share", type=float, default=0.15, metavar="P", help="default: %(default)s")
    parser.add_argument("--batch-tokens", type=int, default=2048, metavar="N", help="default: %(default)s")
    add_seed(parser)
    parser.add_argument("--bf16", action="store_true", help="compute in bfloat16 where that is safe")
    parser.add_argument("-d", "--device", default="cpu", help="default: %(default)s")


def _add_dirs(parser: argparse.ArgumentParser, text: str = "Kaldi data directories, or directories of texts") -> None:
    parser.add_argument("data_dirs", nargs="+", type=Path, metavar="DIR", help=text)


def _download(args: argparse.Namespace) -> int:
    from speechnar.data.download import fetch  # noqa: PLC0415

    fetch(args.url, args.dest, args.sha256)
    return OK


def _describe(args: argparse.Namespace) -> int:
    from speechnar.data.describe import describe_dirs  # noqa: PLC0415

    put(json.dumps(describe_dirs(args.data_dirs, args.tokenizer), indent=1, ensure_ascii=False) + "\n")
    return OK


def _tokenizer(args: argparse.Namespace) -> int:
    from speechnar.data.build_tokenizer import build_tokenizer, cut_tokenizer, read_texts  # noqa: PLC0415

    utterances = [utterance for folder in args.data_dirs for utterance in read_texts(folder)]
    if args.cut is not None:
        cut_tokenizer(
            utterances,
            args.out,
            args.cut,
            languages=args.languages,
            translate_to=args.translate_to,
            min_count=args.min_count,
        )
        return OK
    build_tokenizer(
        utterances,
        args.out,
        vocab_size=args.vocab_size,
        model_type=args.model_type,
        languages=args.languages,
        translate_to=args.translate_to,
    )
    return OK


def _words(args: argparse.Namespace) -> int:
    from speechnar.data.build_words import build_words  # noqa: PLC0415
    from speechnar.data.kaldi import read_kaldi_dir  # noqa: PLC0415

    texts = (utterance.text for folder in args.data_dirs for utterance in read_kaldi_dir(folder))
    build_words(texts, args.out, min_count=args.min_count)
    return OK


def _durations(args: argparse.Namespace) -> int:
    from speechnar.train.align_durations import align_dirs  # noqa: PLC0415

    align_dirs(args.tokenizer, args.data_dirs, aligner=args.aligner)
    return OK


def _codes(args: argparse.Namespace) -> int:
    from speechnar.data.codes import CODES_FILE  # noqa: PLC0415
    from speechnar.train.extract_codes import extract_codes, load_codec  # noqa: PLC0415

    check_engine(args)
    set_threads(args.threads)
    if args.engine is not None:
        from speechnar.scale.stages import Coding  # noqa: PLC0415

        for folder in args.data_dirs:
            coding = Coding(
                model=args.codec.resolve(), out=parts_of(folder / CODES_FILE), data_dir=folder.resolve(),
                min_seconds=args.min_seconds, device=args.device, threads=args.threads,
            )  # fmt: skip
            run_stage_of(args, coding, folder)
        return OK
    codec = load_codec(args.codec, device=args.device)
    for folder in args.data_dirs:
        log().info("%s: %d frames", folder, extract_codes(codec, folder, min_seconds=args.min_seconds))
    return OK


def _features(args: argparse.Namespace) -> int:
    from speechnar.config import load_config  # noqa: PLC0415
    from speechnar.data.features import STATES_FILE  # noqa: PLC0415
    from speechnar.train.extract_features import extract_features, has_features, load_extractor  # noqa: PLC0415
    from speechnar.train.run import RunConfig  # noqa: PLC0415

    check_engine(args)
    set_threads(args.threads)
    model, tokenizer = load_extractor(load_config(args.config, RunConfig, args.set))
    for folder in args.data_dirs:
        if args.missing and has_features(model, folder):
            log().info("%s: has them already", folder)
            continue
        if args.engine is not None:
            from speechnar.scale.stages import Extracting  # noqa: PLC0415

            extracting = Extracting(
                model=args.config.resolve(), out=parts_of(folder / STATES_FILE), data_dir=folder.resolve(),
                settings=tuple(args.set), batch_seconds=args.batch_seconds, threads=args.threads,
            )  # fmt: skip
            run_stage_of(args, extracting, folder)
            continue
        total = extract_features(model, folder, tokenizer, batch_seconds=args.batch_seconds)
        log().info("%s: %d positions", folder, total)
    return OK


def _distil(args: argparse.Namespace) -> int:
    from speechnar.train.distil import distil_dir  # noqa: PLC0415

    distil_dir(
        args.model,
        args.data_dir,
        args.out,
        source=args.source,
        target=args.target,
        beam_size=args.beam_size,
        token_reward=args.token_reward,
        raw_share=args.raw_share,
        batch_tokens=args.batch_tokens,
        seed=args.seed,
        bf16=args.bf16,
        device=args.device,
    )
    return OK


GROUP = {
    "download": Verb("fetch a file unless it is there", _describe_download, _download),
    "describe": Verb("report what directories hold, as JSON", _describe_describe, _describe),
    "tokenizer": Verb("train a tokenizer on their texts", _describe_tokenizer, _tokenizer),
    "words": Verb("list the words of their texts, as a tokenizer", _describe_words, _words),
    "durations": Verb("write how long each token lasts", _describe_durations, _durations),
    "codes": Verb("code their sound once, for generators to learn from", _describe_codes, _codes),
    "features": Verb("store what a frozen encoder makes of their sound", _describe_features, _features),
    "distil": Verb("replace the targets of training pairs by a teacher's translations", _describe_distil, _distil),
}
