"""Stages of recipes on the engine: what is made of each utterance of a data directory, in parts that are then joined.

Workers do units of utterances, and the journal says which are done (`speechnar.scale.run`). When all are, the driver
joins the parts to the files that the stage writes without an engine, and journal and parts go: a stage that is run
again begins anew. Sounds have a file each from the beginning. Where utterances fail, nothing is joined; only decoding
goes on, as a recogniser that fails has an empty text.
"""

import json
import logging
import shutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, ClassVar, TypeAlias

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from speechnar.asr.options import AUTO, DecodeOptions
from speechnar.asr.transcriber import Transcriber
from speechnar.config import load_config
from speechnar.data.features import fingerprint
from speechnar.data.kaldi import Utterance, read_kaldi_dir
from speechnar.errors import DataError, SpeechnarError
from speechnar.evaluation.asr import decode_utterances, entry_of, write_decoded
from speechnar.evaluation.sound import make_sound, write_codes_and_joins
from speechnar.evaluation.tts import Reader, System, load_tts, resynthesize
from speechnar.files import replacing
from speechnar.hub import Precision
from speechnar.published import obtain_model
from speechnar.scale.journal import FAILURES, CorpusReport
from speechnar.scale.run import Engine, run_job
from speechnar.scale.units import PART, UNIT_SECONDS, UNREADABLE, Outcome, Unit, Work, attempt
from speechnar.sound.generator import Generator
from speechnar.sound.options import GeneratorOptions
from speechnar.train.extract_codes import code, load_codec, write_codes
from speechnar.train.extract_features import load_extractor, states_of, write_features
from speechnar.train.run import RunConfig
from speechnar.tts.synthesizer import Synthesizer

logger = logging.getLogger(__name__)

MADE_BY = "made_by"


@dataclass(frozen=True)
class StageItem:
    """An utterance, and which one of its directory it is: that one's seed is so much higher."""

    utterance: Utterance
    number: int

    @property
    def utt_id(self) -> str:
        """Its name."""
        return self.utterance.utt_id

    @property
    def seconds(self) -> float:
        """Of its recording."""
        return self.utterance.duration_s


@dataclass(frozen=True)
class Made:
    """What a worker has made of a unit, beside files of single utterances."""

    tensors: Mapping[str, Tensor] = field(default_factory=dict)
    rows: Sequence[Mapping[str, Any]] = ()
    made_by: str = ""
    """The weights, where that is to be known."""
    failed: Mapping[str, str] = field(default_factory=dict)
    """Why there is nothing of an utterance."""


Make: TypeAlias = Callable[[Sequence[StageItem]], Made]


@dataclass(frozen=True, kw_only=True)
class Stage(ABC):
    """A stage; its fields are what is asked for."""

    model: str | Path
    """Folder or name of the model, or the configuration that names it."""
    out: Path
    """Folder of journal and parts, until the stage is done."""
    device: str = "auto"
    precision: Precision = "fp32"
    threads: int | None = None
    skips_failures: ClassVar[bool] = False

    def request(self) -> dict[str, Any]:
        """Return all that is asked for, and which weights are meant: a model may be trained anew under its name."""
        elsewhere = ("out", "device", "threads")
        asked = {one.name: str(getattr(self, one.name)) for one in fields(self) if one.name not in elsewhere}
        return {"stage": type(self).__name__, **asked, "weights": self._weights()}

    def worker(self) -> Work:
        """Load the model."""
        make = self.load()

        def do(unit: Unit[StageItem]) -> tuple[list[Outcome], str | None]:
            made = make(unit.items)
            name = self._write_part(unit.key, made)
            return [_outcome(item, made.failed.get(item.utt_id)) for item in unit.items], name

        return lambda unit: attempt(unit, self.out, do)

    @abstractmethod
    def load(self) -> Make:
        """Return what makes something of utterances."""

    @abstractmethod
    def join(self, utterances: Sequence[Utterance], failed: Mapping[str, str]) -> None:
        """Write the stage's files from its parts; ``failed`` says of which utterances there is nothing, and why."""

    def rows(self) -> Iterator[dict[str, Any]]:
        """Yield the rows of all parts."""
        for path in sorted(self.out.glob(f"{PART}*.jsonl")):
            yield from map(json.loads, path.read_text(encoding="utf-8").splitlines())

    def tensors(self) -> Iterator[tuple[str, Tensor, str]]:
        """Yield the tensors of all parts by name, one part in memory at a time, with what they were made by."""
        for path in sorted(self.out.glob(f"{PART}*.safetensors")):
            with safe_open(path, framework="pt") as part:
                made_by = (part.metadata() or {}).get(MADE_BY, "")
                for name in part.keys():  # noqa: SIM118  # it is no mapping
                    yield name, part.get_tensor(name), made_by

    def _write_part(self, key: str, made: Made) -> str | None:
        if not made.rows and not made.tensors:
            return None
        suffix = "jsonl" if made.rows else "safetensors"
        with replacing(self.out / f"{PART}{key}.{suffix}") as temporary:
            if made.rows:
                lines = "".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in made.rows)
                temporary.write_text(lines, encoding="utf-8", errors="surrogatepass")
            else:
                save_file(dict(made.tensors), temporary, metadata={MADE_BY: made.made_by})
        return f"{PART}{key}"

    def _weights(self) -> str:
        path = obtain_model(self.model) / "model.safetensors"
        status = path.stat() if path.is_file() else None
        return "" if status is None else f"{status.st_size} bytes of {status.st_mtime_ns}"


def run_stage(
    stage: Stage,
    utterances: Sequence[Utterance],
    *,
    engine: Engine,
    address: str | None = None,
    workers: int | None = None,
    unit_seconds: float = UNIT_SECONDS,
) -> CorpusReport:
    """Do a stage, or go on with it; arguments as of `speechnar.scale.run.run_job`.

    Raises:
        DataError: utterances failed, without which there is no result; the folder of the journal lists them.
    """
    items = [StageItem(utterance, number) for number, utterance in enumerate(utterances)]
    report = run_job(
        stage, items, engine=engine, address=address, workers=workers, retry_failed=True, unit_seconds=unit_seconds
    )
    lines = (stage.out / FAILURES).read_text(encoding="utf-8").splitlines()
    failed = {entry["utt_id"]: entry["reason"] for entry in map(json.loads, lines)}
    if failed and not stage.skips_failures:
        utt_id, reason = next(iter(failed.items()))
        raise DataError(
            f"{stage.out / FAILURES}: {len(failed)} of {len(items)} utterances failed, first {utt_id!r} ({reason}); "
            "repair or leave them out, and the same command goes on"
        )
    for utt_id, reason in failed.items():
        logger.error("utterance %s: %s", utt_id, reason)
    stage.join(utterances, failed)
    shutil.rmtree(stage.out)
    return report


@dataclass(frozen=True, kw_only=True)
class Decoding(Stage):
    """`speechnar.evaluation.asr.decode_dir`."""

    hyp: Path
    task: str = "asr"
    language: str = AUTO
    options: DecodeOptions = field(default_factory=DecodeOptions)
    skips_failures: ClassVar[bool] = True

    def load(self) -> Make:
        """Load the recogniser."""
        transcriber = Transcriber.load(self.model, device=self.device, precision=self.precision)

        def make(items: Sequence[StageItem]) -> Made:
            utterances = [item.utterance for item in items]
            found = decode_utterances(
                transcriber, utterances, task=self.task, language=self.language, options=self.options
            )
            failed = {name: str(outcome) for name, outcome in found.items() if isinstance(outcome, SpeechnarError)}
            heard = [one for one in utterances if one.utt_id not in failed]
            return Made(rows=[entry_of(one, found[one.utt_id], self.task) for one in heard], failed=failed)

        return make

    def join(self, utterances: Sequence[Utterance], failed: Mapping[str, str]) -> None:
        """Write the texts."""
        lost = (entry_of(one, DataError(failed[one.utt_id]), self.task) for one in utterances if one.utt_id in failed)
        write_decoded(self.hyp, [*self.rows(), *lost])


@dataclass(frozen=True, kw_only=True)
class Coding(Stage):
    """`speechnar.train.extract_codes.extract_codes`."""

    data_dir: Path
    min_seconds: float = 0.0

    def load(self) -> Make:
        """Load the codec."""
        codec = load_codec(self.model, device=self.device)
        return lambda items: Made(
            {item.utt_id: code(codec, item.utterance, min_seconds=self.min_seconds) for item in items}
        )

    def join(self, utterances: Sequence[Utterance], failed: Mapping[str, str]) -> None:
        """Write the codes."""
        write_codes(self.data_dir, {name: codes for name, codes, _ in self.tensors()})


@dataclass(frozen=True, kw_only=True)
class Extracting(Stage):
    """`speechnar.train.extract_features.extract_features`; the model is a configuration."""

    data_dir: Path
    settings: tuple[str, ...] = ()
    batch_seconds: float = 120.0

    def load(self) -> Make:
        """Load what is frozen of the model."""
        model, tokenizer = load_extractor(load_config(self.model, RunConfig, self.settings))
        made_by = fingerprint(model.frozen_weights())

        def make(items: Sequence[StageItem]) -> Made:
            found = states_of(model, [item.utterance for item in items], tokenizer, batch_seconds=self.batch_seconds)
            return Made({name: torch.from_numpy(np.ascontiguousarray(one)) for name, one in found}, made_by=made_by)

        return make

    def join(self, utterances: Sequence[Utterance], failed: Mapping[str, str]) -> None:
        """Write the states."""
        makers = {made_by for *_, made_by in self.tensors()}
        if len(makers) != 1:
            raise DataError(f"{self.out}: its parts were made by other weights than each other; remove it")
        write_features(self.data_dir, ((name, states.numpy()) for name, states, _ in self.tensors()), makers.pop())

    def _weights(self) -> str:
        return ""  # the parts say it


@dataclass(frozen=True, kw_only=True)
class Speaking(Stage):
    """`speechnar.evaluation.tts.synthesize_data`, or `resynthesize_data` of a ``system``."""

    sounds: Path
    system: System | None = None
    voices: Path | None = None
    steps: int | None = None
    seed: int = 0

    def load(self) -> Make:
        """Load the voice."""
        system = self.system
        if system is not None:
            model = load_tts(self.model, device=self.device, precision=self.precision)

            def recode(items: Sequence[StageItem]) -> Made:
                for item in items:
                    resynthesize(model, item.utterance, system).save(self.sounds / f"{item.utt_id}.wav")
                return Made()

            return recode
        synthesizer = Synthesizer.load(self.model, device=self.device, precision=self.precision)
        reader = Reader(synthesizer, read_kaldi_dir(self.voices) if self.voices else (), steps=self.steps)

        def speak(items: Sequence[StageItem]) -> Made:
            for item in items:
                speech = reader.read(item.utterance, reader.voice_of(item.utterance), seed=self.seed + item.number)
                speech.save(self.sounds / f"{item.utt_id}.wav")
            return Made()

        return speak

    def join(self, utterances: Sequence[Utterance], failed: Mapping[str, str]) -> None:
        """Leave the sounds as they are."""


@dataclass(frozen=True, kw_only=True)
class Generating(Stage):
    """`speechnar.evaluation.sound.generate_data`, or `recode_data` where recordings are ``coded``."""

    sounds: Path
    coded: bool = False
    partner: Path | None = None
    seconds: float | None = None
    seed: int = 0
    options: GeneratorOptions = field(default_factory=GeneratorOptions)

    def load(self) -> Make:
        """Load the generator."""
        generator = Generator.load(self.model, device=self.device, precision=self.precision, partner=self.partner)

        def make(items: Sequence[StageItem]) -> Made:
            tensors = {}
            for item in items:
                sound = make_sound(
                    generator, item.utterance, coded=self.coded, seconds=self.seconds, seed=self.seed + item.number,
                    options=self.options,
                )  # fmt: skip
                sound.save(self.sounds / f"{item.utt_id}.wav")
                tensors[f"codes/{item.utt_id}"] = torch.from_numpy(sound.codes)
                tensors[f"joins/{item.utt_id}"] = torch.tensor(sound.joins, dtype=torch.float64)
            return Made(tensors)

        return make

    def join(self, utterances: Sequence[Utterance], failed: Mapping[str, str]) -> None:
        """Write codes and joins."""
        found: dict[str, dict[str, Tensor]] = {"codes": {}, "joins": {}}
        for name, tensor, _ in self.tensors():
            kind, _, utt_id = name.partition("/")
            found[kind][utt_id] = tensor
        order = [utterance.utt_id for utterance in utterances]
        joins = {utt_id: found["joins"][utt_id].tolist() for utt_id in order}
        write_codes_and_joins(self.sounds, {utt_id: found["codes"][utt_id] for utt_id in order}, joins)


def _outcome(item: StageItem, reason: str | None) -> Outcome:
    if reason is None:
        return Outcome(item.utt_id, item.seconds)
    return Outcome(item.utt_id, kind=UNREADABLE, reason=reason)
