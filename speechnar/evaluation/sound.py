"""Music and sound: make it of a directory's texts (``speechnar sound decode``), and score it (``sound score``).

Every system has a folder with ``<utterance id>.wav`` of every utterance of the Kaldi directory, their codes, and where
windows meet in it (`JOINS_FILE`). What the codec makes of the recordings is the best that a generator of its codes
could do. Scored is: is it what was asked for, how far is it from recordings, is it learned by heart, has it seams. The
directory's own recordings are scored as the system `RECORDED`: they are as far from the recordings of the reference as
real sound is from real sound.

Shapes: N utterances, S samples, K codebooks, T frames, E embedding width.
"""

import json
import logging
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor

from speechnar.audio.io import read_audio
from speechnar.data.codes import CODES_FILE, read_codes
from speechnar.data.dataset import read_utterance
from speechnar.data.kaldi import Utterance, read_kaldi_dir
from speechnar.errors import ConfigError
from speechnar.evaluation.report import RECORDED, check_complete
from speechnar.metrics.embeddings import KernelDistance, frechet_distance, kernel_distance
from speechnar.metrics.repeats import NGRAM_FRAMES, Codes, find_repeats, join_codes
from speechnar.metrics.seam import MARGIN_S, find_seams
from speechnar.metrics.speech import Mean, mean_of
from speechnar.models.base import LoadedModel
from speechnar.models.judges.sound_classifier import SoundClassifier
from speechnar.sound.generator import Generator, Sound
from speechnar.sound.options import GeneratorOptions

logger = logging.getLogger(__name__)

JOINS_FILE = "joins.json"
"""Where windows meet in a system's sounds: seconds, by utterance."""
OUTLIER = 0.05
"""A join stands out that jumps more than all but so many places within windows; without seams, so many do."""

Samples = NDArray[np.float32]


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
            sound = make_sound(generator, utterance, seconds=seconds, seed=seed + number, options=options)
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
    _write(((utt.utt_id, make_sound(generator, utt, coded=True)) for utt in utterances), Path(out))


def make_sound(
    generator: Generator,
    utterance: Utterance,
    *,
    coded: bool = False,
    seconds: float | None = None,
    seed: int = 0,
    options: GeneratorOptions = GeneratorOptions(),  # noqa: B008  # it is frozen
) -> Sound:
    """Return sound of an utterance's text, as long as its recording unless ``seconds`` are given; or the one coded.

    Raises:
        AudioError: the recording cannot be read.
        ConfigError: an option is out of its range, or the text has words that the model does not know.
    """
    if coded:
        return generator.recode(torch.from_numpy(read_utterance(utterance, generator.sample_rate)))
    length = utterance.duration_s if seconds is None else seconds
    return generator.generate(utterance.text, seconds=length, seed=seed, options=options)


def _write(sounds: Iterable[tuple[str, Sound]], out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    codes: dict[str, Tensor] = {}
    joins: dict[str, Sequence[float]] = {}
    for utt_id, sound in sounds:
        sound.save(out / f"{utt_id}.wav")
        codes[utt_id], joins[utt_id] = torch.from_numpy(sound.codes), sound.joins
    write_codes_and_joins(out, codes, joins)


def write_codes_and_joins(out: Path, codes: dict[str, Tensor], joins: Mapping[str, Sequence[float]]) -> None:
    """Write into a system's folder the codes (K, T) of each utterance, and where its windows meet, in seconds."""
    save_file(codes, out / CODES_FILE)
    rounded = {utt_id: [round(join, 6) for join in places] for utt_id, places in joins.items()}
    (out / JOINS_FILE).write_text(json.dumps(rounded, indent=1) + "\n", encoding="utf-8")


@dataclass(frozen=True)
class Repeated:
    """What of a system's first codebook stands in the training data: means over utterances."""

    nearest: Mean
    """Share of the codes that the most similar training passage has at the same places."""
    longest_frames: Mean
    """The longest run that stands there."""
    ngrams: dict[int, Mean]
    """Share of the runs of so many frames that stand there."""


@dataclass(frozen=True)
class Joined:
    """How much the joins of a system's windows stand out."""

    share: Mean
    """Of places within windows that jump at least as much as a join; about a half where nothing is heard."""
    outliers: Mean
    """Share of the joins that jump more than all but `OUTLIER` of these places."""


@dataclass(frozen=True)
class SoundScores:
    """The scores of one system: means over utterances with 95 % bootstrap intervals."""

    right: Mean
    """Share of the utterances of which the judge's most probable word is one that was asked for."""
    probability: Mean
    """Of the words that were asked for, together."""
    frechet: float
    """Distance of the judge's embeddings from those of the reference."""
    kernel: KernelDistance
    """The same without bias."""
    repeated: Repeated | None
    """None where a system has no codes."""
    joined: Joined | None
    """None where no windows meet."""


@dataclass(frozen=True)
class SoundReport:
    """What systems were asked for, who judged, and the scores."""

    utterances: int
    judge: str
    embedding: str
    """What distances are about."""
    reference: int
    """Recordings of the reference."""
    systems: dict[str, SoundScores]

    def to_dict(self) -> dict[str, Any]:
        """Return plain containers; rates are fractions."""
        return asdict(self)

    def __str__(self) -> str:
        lines = [f"{self.utterances} utterances, {self.reference} of the reference; {self.embedding}"]
        for name, scores in self.systems.items():
            shown = [
                f"right {100 * scores.right.value:.1f} %",
                f"Frechet distance {scores.frechet:.3g}",
                f"kernel distance {scores.kernel.value:.3g} ({scores.kernel.deviation:.2g})",
            ]
            if scores.repeated is not None:
                shown.append(f"nearest passage {100 * scores.repeated.nearest.value:.1f} %")
                shown.append(f"longest run {scores.repeated.longest_frames.value:.1f} frames")
            if scores.joined is not None:
                shown.append(f"joins that stand out {100 * scores.joined.outliers.value:.1f} %")
            lines.append(f"{name}: {', '.join(shown)}")
        return "\n".join(lines) + "\n"


def score_sound(
    data_dir: str | Path,
    systems: Mapping[str, str | Path],
    *,
    judge: LoadedModel,
    reference: str | Path,
    training: str | Path,
) -> tuple[SoundReport, list[dict[str, Any]]]:
    """Score ``systems`` and the recordings of ``data_dir``; return the scores, and an entry for each single utterance.

    Args:
        data_dir: a Kaldi data directory; its texts are what was asked for.
        systems: folders by the system's name.
        judge: a classifier of sounds, which must not have been trained on any of this.
        reference: a data directory of recordings from which distances are taken, on which it was not trained, either.
        training: the data directory with codes that the systems learned from.

    Raises:
        DataError: a directory is malformed, a system lacks utterances, or there are too few for a distance.
        AudioError: a file cannot be read.
        ConfigError: a system is called `RECORDED`, the judge is none, or does not know a word.
    """
    if RECORDED in systems:
        raise ConfigError(f"a system must not be called {RECORDED!r}: so are the recordings of {data_dir}")
    if not isinstance(judge.model, SoundClassifier):
        raise ConfigError(f"{judge.name}: must be a sound_classifier, got {type(judge.model).__name__}")
    utterances = read_kaldi_dir(data_dir)
    check_complete(utterances, systems)
    listener = _Listener(judge)
    asked = [listener.ids(utterance) for utterance in utterances]
    real = [listener.hear(wav)[0] for wav in _recordings(read_kaldi_dir(reference), listener.rate)]
    learned = join_codes(codes[0].numpy() for codes in read_codes(Path(training)).values())
    found: dict[str, SoundScores] = {}
    entries: list[dict[str, Any]] = []
    for name, folder in {RECORDED: None, **systems}.items():
        wavs = (
            _recordings(utterances, listener.rate)
            if folder is None
            else (_read(Path(folder) / f"{utt.utt_id}.wav", listener.rate) for utt in utterances)
        )
        codes, joins = _codes_and_joins(None if folder is None else Path(folder))
        embeddings, rows = [], []
        for utterance, ids, wav in zip(utterances, asked, wavs, strict=True):
            embedding, probs = listener.hear(wav)
            best = int(probs.argmax())
            row: dict[str, Any] = {"system": name, "utt_id": utterance.utt_id, "text": utterance.text}
            row |= {"heard": listener.word(best), "right": best in ids, "probability": float(probs[sorted(ids)].sum())}
            if utterance.utt_id in codes:
                row["repeats"] = asdict(find_repeats(codes[utterance.utt_id], learned))
            inside = joins_inside(joins.get(utterance.utt_id, []), len(wav) / listener.rate)
            if inside:
                row["seams"] = asdict(find_seams(wav, listener.rate, inside))
            embeddings.append(embedding)
            rows.append(row)
        found[name] = _summarize(rows, np.stack(embeddings), np.stack(real))
        entries += rows
        logger.info("%s: right %.1f %%", name, 100 * found[name].right.value)
    embedding_name = (
        f"embeddings of {listener.model.config.embedding_dim} values, the last but one layer of {judge.name}"
    )
    return SoundReport(len(utterances), judge.name, embedding_name, len(real), found), entries


class _Listener:
    """A judge, and what it makes of sounds."""

    def __init__(self, judge: LoadedModel) -> None:
        assert isinstance(judge.model, SoundClassifier)
        self.name, self.model, self.tokenizer = judge.name, judge.model.eval(), judge.tokenizer
        self.rate = self.model.sample_rate
        self.device = next(self.model.parameters()).device

    def ids(self, utterance: Utterance) -> set[int]:
        """Return those words that were asked for which it knows."""
        ids = set(self.tokenizer.encode(utterance.text)) - {self.tokenizer.unk_id}
        if not ids:
            raise ConfigError(f"{self.name}: must know a word of utterance {utterance.utt_id!r}: {utterance.text!r}")
        return ids

    def word(self, token: int) -> str:
        return self.tokenizer.decode([token])

    @torch.no_grad()
    def hear(self, wav: Samples) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return the embedding (E,) and the probability of each word (V,) of samples (S,)."""
        lens = torch.tensor([len(wav)], device=self.device)
        embedding = self.model.embed(torch.from_numpy(wav)[None].to(self.device), lens)
        probs = self.model.words(embedding).float().softmax(-1)
        return embedding[0].cpu().numpy(), probs[0].cpu().numpy()


def joins_inside(joins: Sequence[float], duration_s: float) -> list[float]:
    """Return the ``joins`` that are not at an end of the sound: nothing is heard of what ends just behind them."""
    return [join for join in joins if MARGIN_S <= join <= duration_s - 2 * MARGIN_S]


def _recordings(utterances: Sequence[Utterance], rate: int) -> Iterator[Samples]:
    return (read_utterance(utterance, rate) for utterance in utterances)


def _read(path: Path, rate: int) -> Samples:
    return read_audio(path, target_rate=rate).samples


def _codes_and_joins(folder: Path | None) -> tuple[dict[str, Codes], dict[str, list[float]]]:
    """Return the first codebook (T,) and the joins of a system's utterances, as far as there are any."""
    if folder is None:
        return {}, {}
    path = folder / JOINS_FILE
    codes = read_codes(folder) if (folder / CODES_FILE).is_file() else {}
    joins = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return {utt_id: rows[0].numpy() for utt_id, rows in codes.items()}, joins


def _summarize(
    rows: Sequence[dict[str, Any]], embeddings: NDArray[np.float32], real: NDArray[np.float32]
) -> SoundScores:
    repeats = [row["repeats"] for row in rows if "repeats" in row]
    shares = [share for row in rows if "seams" in row for share in row["seams"]["shares"]]
    repeated = None
    if repeats:
        by_length = {n: [each["ngrams"][n] for each in repeats if n in each["ngrams"]] for n in NGRAM_FRAMES}
        repeated = Repeated(
            nearest=mean_of([each["nearest"] for each in repeats]),
            longest_frames=mean_of([each["longest"] for each in repeats]),
            ngrams={n: mean_of(values) for n, values in by_length.items() if values},
        )
    joined = None
    if shares:
        joined = Joined(mean_of(shares), mean_of([float(share <= OUTLIER) for share in shares]))
    return SoundScores(
        right=mean_of([float(row["right"]) for row in rows]),
        probability=mean_of([row["probability"] for row in rows]),
        frechet=frechet_distance(embeddings, real),
        kernel=kernel_distance(embeddings, real),
        repeated=repeated,
        joined=joined,
    )
