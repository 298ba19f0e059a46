"""Synthetic speech: speak the texts of a data directory (``speechnar tts decode``), and score it (``tts score``).

Every system has a folder with ``<utterance id>.wav`` for every utterance of the Kaldi directory, whose own recordings
are scored as the system `RECORDED`. To know what is not the synthesiser's fault, its vocoder and its tokenizer of
latents are scored beside it: what they make of the recordings is the best that it could do. A recogniser judges what
was said, or, from elsewhere, what it wrote (`Heard`).

Shapes: N utterances, S samples, T frames, F mel bands, C cepstra, E embedding width.
"""

import logging
import math
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from speechnar.asr.transcriber import Transcriber
from speechnar.audio.fbank import LogMel, LogMelConfig
from speechnar.audio.io import Audio, read_audio
from speechnar.data.dataset import read_utterance
from speechnar.data.kaldi import Utterance, read_kaldi_dir
from speechnar.errors import ConfigError, DataError
from speechnar.evaluation.report import RECORDED, check_complete
from speechnar.hub import Precision, find_device
from speechnar.metrics.error_rate import ErrorRate, cer, wer
from speechnar.metrics.speech import (
    Mean,
    compare_pitch,
    mean_of,
    mel_cepstra,
    mel_cepstral_distortion,
    pitch,
    warp,
)
from speechnar.metrics.verification import equal_error_rate
from speechnar.models.base import LoadedModel
from speechnar.models.judges.speaker_verifier import SpeakerVerifier
from speechnar.models.prepare import load_prepared
from speechnar.models.tts.tts import Tts
from speechnar.text.normalize import get_normalizer
from speechnar.text.transcript import Transcript
from speechnar.tts.synthesizer import Speech, Synthesizer
from speechnar.tts.voice import Voice

logger = logging.getLogger(__name__)

RATE = 16000
"""Samples per second at which all systems are compared."""
QUANTILES = (0.05, 0.5, 0.95)

Samples = NDArray[np.float32]
System = Literal["vocoded", "coded"]
"""What recordings pass through: the vocoder, or the tokenizer of latents as well."""


def synthesize_data(
    synthesizer: Synthesizer,
    utterances: Sequence[Utterance],
    out: str | Path,
    *,
    voices: Sequence[Utterance] = (),
    steps: int | None = None,
    seed: int = 0,
) -> float:
    """Speak the text of each utterance to ``out/<utterance id>.wav``; return the real-time factor, voices excluded.

    Args:
        synthesizer: speaks.
        utterances: whose texts are spoken.
        out: a folder.
        voices: recordings; each text is spoken in the voice of the first one of its speaker. Without any, the model
            speaks in its own voice.
        steps: evaluations per block; None: the usual number.
        seed: of all; the first utterance has it, each later one the next.

    Raises:
        DataError: a speaker has no recording among ``voices``.
        AudioError: a recording is no use as a reference.
        ConfigError: an option is out of its range, or a text cannot be spoken.
    """
    reader = Reader(synthesizer, voices, steps=steps)
    wall_s = audio_s = 0.0
    Path(out).mkdir(parents=True, exist_ok=True)
    for number, utterance in enumerate(utterances):
        voice = reader.voice_of(utterance)
        started = time.perf_counter()
        speech = reader.read(utterance, voice, seed=seed + number)
        wall_s += time.perf_counter() - started
        audio_s += speech.duration
        speech.save(Path(out) / f"{utterance.utt_id}.wav")
    return wall_s / audio_s if audio_s else 0.0


class Reader:
    """Reads texts aloud, each in the voice of its speaker; arguments as of `synthesize_data`."""

    def __init__(self, synthesizer: Synthesizer, voices: Sequence[Utterance] = (), *, steps: int | None = None) -> None:
        self._synthesizer = synthesizer
        self._references = {utterance.spk_id: utterance for utterance in reversed(voices)}
        self._steps = steps
        self._known: dict[str, Voice] = {}

    def voice_of(self, utterance: Utterance) -> Voice | None:
        """Return the voice of its speaker; None: the model's own.

        Raises:
            DataError: the speaker has no recording among the voices.
            AudioError: that one is no use as a reference.
        """
        speaker = utterance.spk_id
        if self._references and speaker not in self._known:
            if speaker not in self._references:
                raise DataError(f"speaker {speaker!r} of utterance {utterance.utt_id!r} has no recording among voices")
            reference, rate = self._references[speaker], self._synthesizer.sample_rate
            wav = read_utterance(reference, rate)
            self._known[speaker] = self._synthesizer.voice(wav, text=reference.text, sample_rate=rate)
        return self._known.get(speaker)

    def read(self, utterance: Utterance, voice: Voice | None, *, seed: int) -> Speech:
        """Return its text as speech."""
        return self._synthesizer.synthesize(utterance.text, voice=voice, steps=self._steps, seed=seed)


def resynthesize_data(model: Tts, utterances: Sequence[Utterance], out: str | Path, system: System) -> None:
    """Write each recording to ``out/<utterance id>.wav`` as the vocoder makes it, of its log-mels or of its latents.

    Raises:
        AudioError: a recording cannot be read.
        DataError: one is shorter than a latent.
    """
    Path(out).mkdir(parents=True, exist_ok=True)
    for utterance in utterances:
        resynthesize(model, utterance, system).save(Path(out) / f"{utterance.utt_id}.wav")


@torch.no_grad()
def resynthesize(model: Tts, utterance: Utterance, system: System) -> Audio:
    """Return a recording as `resynthesize_data` writes it.

    Raises:
        AudioError: it cannot be read.
        DataError: it is shorter than a latent.
    """
    device = next(model.parameters()).device
    wav = torch.from_numpy(read_utterance(utterance, model.sample_rate)).to(device)[None]
    lens = torch.tensor([wav.size(1)], device=device)
    latents, latent_lens = model.codec.encode(wav, lens)
    if not int(latent_lens):
        raise DataError(f"utterance {utterance.utt_id!r}: shorter than a latent of {model.latent_shift_s:g} s")
    feats = model.codec.decode(latents, latent_lens) if system == "coded" else model.codec.frontend(wav, lens)
    samples: NDArray[np.float32] = model.vocoder(*feats)[0][0].cpu().numpy()
    return Audio(samples, model.sample_rate)


def load_tts(folder: str | Path, *, device: str = "auto", precision: Precision = "fp32") -> Tts:
    """Return the text to speech of a model folder.

    Raises:
        ConfigError: the model is of another kind, or the device does not compute in this precision.
        ModelNotFoundError: there is none.
    """
    model = load_prepared(folder, device=find_device(device), precision=precision).model
    if not isinstance(model, Tts):
        raise ConfigError(f"{folder}: must be a model of kind tts")
    return model


@dataclass(frozen=True)
class Range:
    """Quantiles of cosines between a recording and a voice."""

    low: float
    """5 % are below."""
    median: float
    high: float
    """5 % are above."""
    num: int


@dataclass(frozen=True)
class Voices:
    """How the verifier judges recordings of these speakers: what similarities of synthetic speech compare with."""

    same: Range | None
    """Recordings and the other recordings of their speaker; None where each speaker has one."""
    different: Range | None
    """Recordings and the voices of other speakers; None where there are none."""
    eer: float | None
    """The equal error rate between the two."""


@dataclass(frozen=True)
class SystemScores:
    """The scores of one system: means over utterances with 95 % bootstrap intervals; None where there is nothing."""

    wer: ErrorRate
    cer: ErrorRate
    right: Mean
    """Share of the utterances that are recognised without any error: the accuracy, where each is one word."""
    failed: int
    """Utterances of which the judge makes nothing at all, not even an empty text."""
    similarity: Mean | None
    """Cosine with the voice: the mean of the speaker's other recordings."""
    duration: Mean | None = None
    """Seconds over those of the recording."""
    mcd_db: Mean | None = None
    """Mel-cepstral distortion from the recording."""
    pitch_rmse_cents: Mean | None = None
    pitch_correlation: Mean | None = None
    voicing_error: Mean | None = None


@dataclass(frozen=True)
class SpeechReport:
    """What systems were given to read, who judged, and the scores."""

    utterances: int
    judge: str
    verifier: str
    normalizer: str
    systems: dict[str, SystemScores]
    voices: Voices

    def to_dict(self) -> dict[str, Any]:
        """Return plain containers; rates are fractions."""
        values = asdict(self)
        for name, scores in self.systems.items():
            for unit in ("wer", "cer"):
                rate: ErrorRate = getattr(scores, unit)
                values["systems"][name][unit] = {"rate": rate.rate, **asdict(rate)}
        return values

    def __str__(self) -> str:
        lines = [f"{self.utterances} utterances; judge {self.judge}, verifier {self.verifier}"]
        for name, scores in self.systems.items():
            means = {key: value for key, value in vars(scores).items() if isinstance(value, Mean)}
            shown = [f"{key} {mean.value:.3g}" for key, mean in means.items()]
            lines += [f"{name}: {scores.wer}", f"{name}: {scores.cer}", f"{name}: {', '.join(shown)}"]
        for kind, found in (("same", self.voices.same), ("different", self.voices.different)):
            if found is not None:
                lines.append(f"{kind} voices: cosine {found.low:.2f} to {found.high:.2f}, median {found.median:.2f}")
        return "\n".join(lines) + "\n"


@dataclass(frozen=True)
class Heard:
    """What a recogniser from elsewhere made of the systems."""

    name: str
    """Of the recogniser."""
    texts: Mapping[str, Mapping[str, str]]
    """By the system's name and the utterance's id; an empty one where nothing was recognised."""

    def of(self, system: str, utterances: Sequence[Utterance]) -> list[dict[str, Any]]:
        """Return what was heard of each utterance.

        Raises:
            DataError: that is not known of each.
        """
        texts = self.texts.get(system, {})
        missing = [utterance.utt_id for utterance in utterances if utterance.utt_id not in texts]
        if missing:
            raise DataError(
                f"{self.name} must have heard each of {len(utterances)} utterances of system {system!r}; "
                f"{len(missing)} are missing, first {missing[0]}"
            )
        return [{"heard": " ".join(texts[utt.utt_id].split()), "failed": False} for utt in utterances]


@dataclass(frozen=True)
class _Spoken:
    """An utterance as one system speaks it."""

    wav: Samples
    log_mels: NDArray[np.float32]  # (T, F)
    cepstra: NDArray[np.floating]  # (T, C)
    pitch_hz: NDArray[np.floating]  # (T,)
    voice: NDArray[np.float32]  # (E,)


def score_speech(
    data_dir: str | Path,
    systems: Mapping[str, str | Path],
    *,
    judge: Transcriber | Heard,
    verifier: LoadedModel,
    others: str | Path | None = None,
    language: str = "eng",
    normalizer: str = "basic",
    plots: str | Path | None = None,
    num_plots: int = 5,
) -> tuple[SpeechReport, list[dict[str, Any]]]:
    """Score ``systems`` and the recordings of ``data_dir``; return the scores, and an entry for each single utterance.

    Args:
        data_dir: a Kaldi data directory of recordings.
        systems: folders of ``<utterance id>.wav`` by the system's name.
        judge: a recogniser, which must not have been trained on any of this, or what one made of every system.
        verifier: a speaker verifier.
        others: a data directory of other speakers; without it, voices differ only among those of ``data_dir``.
        language: spoken.
        normalizer: of the texts that are compared.
        plots: a folder to which the log-mels of ``num_plots`` utterances by every system are drawn.
        num_plots: spread evenly over the sorted utterances, hence always the same.

    Raises:
        DataError: a directory is malformed, a system lacks utterances, or one has less than a frame of sound, or the
            judge has not heard an utterance.
        AudioError: a file cannot be read.
        ConfigError: a system is called `RECORDED`, there is no such normaliser, or the verifier is none, or hears
            another sample rate.
    """
    if RECORDED in systems:
        raise ConfigError(f"a system must not be called {RECORDED!r}: so are the recordings of {data_dir}")
    model = verifier.model
    if not isinstance(model, SpeakerVerifier) or model.sample_rate != RATE:
        kind = getattr(verifier.config, "kind", "model")
        raise ConfigError(f"{verifier.name}: must be a speaker_verifier at {RATE} samples per second, got a {kind}")
    get_normalizer(normalizer)("", language)  # whatever is wrong with it is wrong now, not after hours
    utterances = read_kaldi_dir(data_dir)
    check_complete(utterances, systems)
    listener = _Listener(model)
    recorded = [listener.hear(read_utterance(utt, RATE), utt.utt_id) for utt in utterances]
    speakers = [utt.spk_id for utt in utterances]
    voices = np.stack([spoken.voice for spoken in recorded])
    references = _other_recordings(voices, speakers)
    plotted = [utterances[i].utt_id for i in _spread(len(utterances), num_plots)] if plots is not None else []
    drawn: dict[str, dict[str, NDArray[np.float32]]] = {utt_id: {} for utt_id in plotted}
    found: dict[str, SystemScores] = {}
    entries: list[dict[str, Any]] = []
    for name, folder in {RECORDED: None, **systems}.items():
        if folder is None:
            spoken = recorded
        else:
            files = [Path(folder) / f"{utt.utt_id}.wav" for utt in utterances]
            spoken = [listener.hear(read_audio(path, target_rate=RATE).samples, str(path)) for path in files]
        if isinstance(judge, Heard):
            heard = judge.of(name, utterances)
        else:
            heard = _transcribe(judge, [one.wav for one in spoken], language)
        rows = []
        for i, utterance in enumerate(utterances):
            row: dict[str, Any] = {"system": name, "utt_id": utterance.utt_id, "text": utterance.text, **heard[i]}
            reference = references[i]
            if reference is not None:
                row["similarity"] = float(spoken[i].voice @ reference)
            if folder is not None:
                row |= _compare(recorded[i], spoken[i])
            rows.append(row)
            if utterance.utt_id in drawn:
                drawn[utterance.utt_id][name] = spoken[i].log_mels
        found[name] = _summarize(rows, normalizer, language)
        entries += rows
        logger.info("%s: %s", name, found[name].cer)
    if plots is not None:
        _draw(drawn, Path(plots))
    strangers = [] if others is None else read_kaldi_dir(others)
    strange = [listener.voice(read_utterance(utt, RATE)) for utt in strangers if utt.spk_id not in speakers]
    ranges = _voice_ranges(voices, speakers, references, strange)
    return SpeechReport(len(utterances), judge.name, verifier.name, normalizer, found, ranges), entries


def _draw(drawn: Mapping[str, Mapping[str, NDArray[np.float32]]], folder: Path) -> None:
    """Draw the log-mels (T, F) of each utterance, by system, to a file in ``folder``."""
    from speechnar.evaluation.plots import plot_log_mels  # noqa: PLC0415  # an extra

    for utt_id, log_mels in drawn.items():
        plot_log_mels(log_mels, folder / f"{utt_id}.png")


class _Listener:
    """Measures speech once, for all comparisons."""

    def __init__(self, verifier: SpeakerVerifier) -> None:
        self.verifier = verifier.eval()
        self.frontend = LogMel(LogMelConfig.for_vocoder(RATE))
        self.device = next(verifier.parameters()).device

    @torch.no_grad()
    def hear(self, wav: Samples, name: str) -> _Spoken:
        log_mels = self.frontend(torch.from_numpy(wav)[None], torch.tensor([len(wav)]))[0][0].numpy()
        if not len(log_mels):
            raise DataError(f"{name}: holds {len(wav)} samples, less than a frame; speech is needed to compare")
        cepstra = mel_cepstra(log_mels.astype(np.float64))
        return _Spoken(wav, log_mels, cepstra, pitch(wav, RATE, self.frontend.config.hop_length), self.voice(wav))

    @torch.no_grad()
    def voice(self, wav: Samples) -> NDArray[np.float32]:
        lens = torch.tensor([len(wav)], device=self.device)
        vector: NDArray[np.float32] = self.verifier(torch.from_numpy(wav)[None].to(self.device), lens)[0].cpu().numpy()
        return vector


def _transcribe(judge: Transcriber, wavs: Iterable[Samples], language: str) -> list[dict[str, Any]]:
    outcomes = judge.transcribe_many(wavs, sample_rate=RATE, language=language)
    return [
        {"heard": " ".join(outcome.text.split()), "failed": False}
        if isinstance(outcome, Transcript)
        else {"heard": "", "failed": True}
        for outcome in outcomes
    ]


def _compare(recorded: _Spoken, spoken: _Spoken) -> dict[str, Any]:
    path = warp(recorded.cepstra, spoken.cepstra)
    errors = compare_pitch(recorded.pitch_hz, spoken.pitch_hz, path)
    return {
        "duration": len(spoken.wav) / len(recorded.wav),
        "mcd_db": mel_cepstral_distortion(recorded.cepstra, spoken.cepstra, path),
        "pitch_rmse_cents": errors.rmse_cents,
        "pitch_correlation": errors.correlation,
        "voicing_error": errors.voicing_error,
    }


def _summarize(rows: Sequence[dict[str, Any]], normalizer: str, language: str) -> SystemScores:
    normalize = get_normalizer(normalizer)
    refs, hyps = ([row[key] for row in rows] for key in ("text", "heard"))
    words = ([normalize(text, language).split() for text in texts] for texts in (refs, hyps))

    def mean(key: str) -> Mean | None:
        values = [row[key] for row in rows if row.get(key) is not None]
        return mean_of(values) if values else None

    return SystemScores(
        wer=wer(refs, hyps, normalizer=normalizer, lang=language),
        cer=cer(refs, hyps, normalizer=normalizer, lang=language),
        right=mean_of([float(ref == hyp) for ref, hyp in zip(*words, strict=True)]),
        failed=sum(row["failed"] for row in rows),
        similarity=mean("similarity"),
        duration=mean("duration"),
        mcd_db=mean("mcd_db"),
        pitch_rmse_cents=mean("pitch_rmse_cents"),
        pitch_correlation=mean("pitch_correlation"),
        voicing_error=mean("voicing_error"),
    )


def _other_recordings(voices: NDArray[np.float32], speakers: Sequence[str]) -> list[NDArray[np.float32] | None]:
    """Return for each recording (N, E) the unit mean (E,) of the same speaker's others; None where there are none."""
    found: list[NDArray[np.float32] | None] = []
    for i, spk_id in enumerate(speakers):
        rest = [voices[j] for j, other in enumerate(speakers) if other == spk_id and j != i]
        found.append(_unit_mean(rest) if rest else None)
    return found


def _voice_ranges(
    voices: NDArray[np.float32],
    speakers: Sequence[str],
    references: Sequence[NDArray[np.float32] | None],
    strange: Sequence[NDArray[np.float32]],
) -> Voices:
    names = sorted(set(speakers))
    means = {name: _unit_mean([v for v, spk in zip(voices, speakers, strict=True) if spk == name]) for name in names}
    same = [float(v @ ref) for v, ref in zip(voices, references, strict=True) if ref is not None]
    different = [float(v @ means[n]) for v, spk in zip(voices, speakers, strict=True) for n in names if n != spk]
    different += [float(v @ means[n]) for v in strange for n in names]
    eer = None
    if same and different:
        eer = equal_error_rate([*same, *different], [True] * len(same) + [False] * len(different)).rate
    return Voices(_range_of(same), _range_of(different), eer)


def _unit_mean(vectors: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
    mean = np.mean(vectors, axis=0)
    unit: NDArray[np.float32] = mean / max(float(np.linalg.norm(mean)), 1e-12)
    return unit


def _range_of(cosines: Sequence[float]) -> Range | None:
    if not cosines:
        return None
    low, median, high = np.quantile(cosines, QUANTILES).tolist()
    return Range(low, median, high, len(cosines))


def _spread(count: int, wanted: int) -> list[int]:
    """Return up to ``wanted`` numbers below ``count``, evenly spread."""
    return sorted({math.floor(i * count / wanted) for i in range(wanted)})
