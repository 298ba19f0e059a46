"""Make sound of the texts of a Kaldi directory, or pass its recordings through the codec, as evaluation needs it.

TODO
"""

import json
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import torch
from safetensors.torch import save_file

from speechnar.data.codes import CODES_FILE
from speechnar.data.dataset import read_utterance
from speechnar.data.kaldi import Utterance
from speechnar.sound.generator import Generator, GeneratorOptions, Sound

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
