"""The HTTP server: serve."""

import argparse
import os
from pathlib import Path

from speechnar.cli.options import OK, Verb, add_computing, set_threads
from speechnar.cli.output import log
from speechnar.extras import needs
from speechnar.hub import CONSENT, DEFAULT_MODEL, DEFAULT_TTS_MODEL

KEYS_VARIABLE = "SPEECHNAR_API_KEYS"


def _describe_serve(parser: argparse.ArgumentParser) -> None:
    add_computing(parser)
    parser.add_argument("--host", default="127.0.0.1", help="0.0.0.0 serves other machines; default: %(default)s")
    parser.add_argument("--port", type=int, default=8000, help="default: %(default)s")
    for name, default, does in (
        ("--model", DEFAULT_MODEL, "transcribes"),
        ("--tts-model", DEFAULT_TTS_MODEL, "speaks"),
    ):
        parser.add_argument(name, default=default, metavar="MODEL", help=f"what {does}; default: %(default)s")
    parser.add_argument("--st-model", metavar="MODEL", help="what translates speech; default: --model, if it does")
    parser.add_argument(
        "--also", action="append", default=[], metavar="MODEL", help="a folder or name that requests may ask for, too"
    )
    parser.add_argument("--voices", type=Path, metavar="DIR", help=f"NAME.wav, perhaps with NAME.txt. {CONSENT}")
    parser.add_argument("--max-audio", type=float, default=4 * 3600.0, metavar="S", help="default: %(default)s")
    parser.add_argument(
        "--batch-seconds", type=float, default=60.0, metavar="S",
        help="of waiting requests that are decoded together, 0: none; default: %(default)s",
    )  # fmt: skip
    parser.add_argument("--max-sessions", type=int, default=32, metavar="N", help="live captions; default: %(default)s")


def _serve(args: argparse.Namespace) -> int:
    with needs("serve"):
        from speechnar.serve.app import serve  # noqa: PLC0415
    from speechnar.serve.options import ServeOptions  # noqa: PLC0415

    set_threads(args.threads)
    options = ServeOptions(
        asr_model=args.model,
        st_model=args.st_model,
        tts_model=args.tts_model,
        more_models=tuple(args.also),
        voices=args.voices,
        device=args.device,
        api_keys=tuple(os.environ.get(KEYS_VARIABLE, "").replace(",", " ").split()),
        max_audio_s=args.max_audio,
        batch_s=args.batch_seconds,
        max_sessions=args.max_sessions,
    )
    guarded = "with a key" if options.api_keys else f"without a key; {KEYS_VARIABLE} sets some"
    log().info("serving http://%s:%d %s", args.host, args.port, guarded)
    serve(options, host=args.host, port=args.port)
    return OK


VERBS = {
    "serve": Verb(
        "serve HTTP as OpenAI's audio API has it",
        _describe_serve,
        _serve,
        epilog=f"Keys that clients must send as bearer tokens are taken from {KEYS_VARIABLE}, separated by commas.",
    )
}
