"""Make sound of the texts of a Kaldi directory, or pass its recordings through the codec, as evaluation needs it.

``python -m speechnar.evaluation.generate MODEL DATA_DIR OUT`` writes ``OUT/<utterance id>.wav``, as long as the
recording, its codes (``codes.safetensors``), and where windows meet in it (`JOINS_FILE`: seconds, by utterance). What
the codec makes of the recordings (``--system coded``) is the best that a generator of its codes could do.
"""

import argparse
import json
import logging
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import torch
from safetensors.torch import save_file

from speechnar.data.codes import CODES_FILE
from speechnar.data.dataset import read_utterance
from speechnar.data.kaldi import Utterance, read_kaldi_dir
from speechnar.errors import SpeechnarError
from speechnar.sound.generator import Generator, GeneratorOptions, Sound

logger = logging.getLogger(__name__)

JOINS_FILE = "joins.json"


def generate_data(
    generator: Generator,
    utterances: Sequence[Utterance],
    out: str | Path,
    *,
    seconds: float | None = None,
    seed: int = 0,
    options: GeneratorOptions = GeneratorOptions(),  # noqa: B008  # it is frozen
) -> float:
    """Write sound of each utterance's text to ``out/<utterance id>.wav``; return the real-time factor.

    It lasts ``seconds``, else as long as the recording. The first utterance has ``seed``, each later one the next.

    Raises:
        ConfigError: an option is out of its range, or a text has words that the model does not know.
    """
    wall_s = audio_s = 0.0

    def make() -> Iterator[tuple[str, Sound]]:
        nonlocal wall_s, audio_s
        for number, utterance in enumerate(utterances):
            started = time.perf_counter()
            length = utterance.duration_s if seconds is None else seconds
            sound = generator.generate(utterance.text, seconds=length, seed=seed + number, options=options)
            wall_s += time.perf_counter() - started
            audio_s += sound.duration
            yield utterance.utt_id, sound

    _write(make(), Path(out))
    return wall_s / audio_s if audio_s else 0.0


def recode_data(generator: Generator, utterances: Sequence[Utterance], out: str | Path) -> None:
    """Write each recording to ``out/<utterance id>.wav`` as the codec makes it of its codes.

    Raises:
        AudioError: a recording cannot be read.
    """
    wavs = ((utt.utt_id, torch.from_numpy(read_utterance(utt, generator.sample_rate))) for utt in utterances)
    _write(((utt_id, generator.recode(wav)) for utt_id, wav in wavs), Path(out))


def _write(sounds: Iterable[tuple[str, Sound]], out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    codes, joins = {}, {}
    for utt_id, sound in sounds:
        sound.save(out / f"{utt_id}.wav")
        codes[utt_id] = torch.from_numpy(sound.codes)
        joins[utt_id] = [round(join, 6) for join in sound.joins]
    save_file(codes, out / CODES_FILE)
    (out / JOINS_FILE).write_text(json.dumps(joins, indent=1) + "\n", encoding="utf-8")


def main(argv: Sequence[str] | None = None) -> int:
    """Run from the command line and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, metavar="MODEL")
    parser.add_argument("data_dir", type=Path, metavar="DATA_DIR")
    parser.add_argument("out", type=Path, metavar="OUT")
    parser.add_argument("--system", choices=("generated", "coded"), default="generated")
    parser.add_argument("--partner", type=Path, metavar="MODEL", help="an autoregressive model, for the next two")
    parser.add_argument("--rescore", action="store_true", help="it has a say in what is kept")
    parser.add_argument("--lead-seconds", type=float, default=0.0, metavar="S", help="it makes the first S seconds")
    parser.add_argument("--seconds", type=float, metavar="S", help="default: as long as each recording")
    parser.add_argument("--steps", type=int, metavar="N")
    parser.add_argument("--seed", type=int, default=0, metavar="N")
    parser.add_argument("-d", "--device", default="auto")
    args = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        utterances = read_kaldi_dir(args.data_dir)
        generator = Generator.load(args.model, device=args.device, partner=args.partner)
        if args.system == "coded":
            recode_data(generator, utterances, args.out)
        else:
            options = GeneratorOptions(steps=args.steps, rescore=args.rescore, lead_seconds=args.lead_seconds)
            rtf = generate_data(generator, utterances, args.out, seconds=args.seconds, seed=args.seed, options=options)
            logger.info("%s: %d utterances, real-time factor %.3f", args.out, len(utterances), rtf)
    except (SpeechnarError, OSError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
