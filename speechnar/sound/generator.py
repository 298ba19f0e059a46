"""Music and sound from words, of any length, going on from a recording, or within one.

Codes are written window by window (`speechnar.sound.writer`); all of them are then turned into sound together, so that
no seam is heard.

Shapes: S samples, K codebooks, T frames.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from speechnar.audio.blocks import Samples
from speechnar.audio.io import Audio, read_audio
from speechnar.audio.loudness import normalize
from speechnar.audio.source import AudioInput
from speechnar.errors import AudioError, ConfigError, ModelNotFoundError
from speechnar.hub import DEFAULT_MUSIC_MODEL, Precision, check_seed, find_device
from speechnar.models.base import LoadedModel
from speechnar.models.prepare import load_prepared
from speechnar.published import obtain_model
from speechnar.sound.options import MAX_SECONDS, GeneratorOptions
from speechnar.sound.writer import AUTOREGRESSIVE, NOT_TRIED, CodeWriter, Progress, WriterSettings, is_autoregressive

if TYPE_CHECKING:  # of the models, only what is loaded is imported
    from speechnar.models.sound.enat import Enat
    from speechnar.models.sound.magnet import Magnet
    from speechnar.models.sound.music_ar import MusicAr

MODEL_KINDS = ("magnet", "enat", "music_ar")
LOUDNESS_LUFS = -16.0
FADE_S = 0.01
"""At both ends, and from a recording to what goes on from it."""
DECODE_S, MARGIN_S = 20.0, 1.0
"""Codes are turned into sound in parts of this length, each with what is before and after it."""


@dataclass(frozen=True)
class Sound(Audio):
    """What was made."""

    codes: NDArray[np.int16]
    """(K, T) of the codec, without those of a recording that it goes on from or fills in."""
    joins: tuple[float, ...]
    """Seconds at which a window goes on from the one before, from or to a recording, or from what the partner made."""


@dataclass(frozen=True)
class Sketch:
    """What a parallel model has filled in so far."""

    codes: NDArray[np.int16]
    """(K, T) as of `Sound`, or of the window around what is filled in; `NOT_TRIED` where nothing was tried yet."""
    is_final: NDArray[np.bool_]
    """(K, T), True where a code stays; others may be masked again, and drawn anew."""


Watch = Callable[[Sketch], None]


class Generator:
    """A model that makes music or sound.

    >>> generator = Generator.load("path/to/model")  # doctest: +SKIP
    >>> generator.generate("rain", seconds=10, seed=7).save("rain.wav")  # doctest: +SKIP
    """

    def __init__(self, loaded: LoadedModel, partner: LoadedModel | None = None) -> None:
        """Wrap a model in memory, and an autoregressive one of the same codec for rescoring and hybrid generation.

        Raises:
            ConfigError: a model is none of generation, or the codecs differ.
        """
        if loaded.kind not in MODEL_KINDS:
            raise ConfigError(f"{loaded.name}: {type(loaded.model).__name__} does not make music or sound")
        self.name = loaded.name
        self._model = cast("Magnet | Enat | MusicAr", loaded.model)
        self._partner: MusicAr | None = None
        if partner is not None:
            if partner.kind != AUTOREGRESSIVE:
                raise ConfigError(
                    f"{partner.name}: a partner must be of kind {AUTOREGRESSIVE}, got {type(partner.model).__name__}"
                )
            self._partner = cast("MusicAr", partner.model)
            if not _same_codec(self._model, self._partner):
                raise ConfigError(f"{partner.name}: its codes are not those of {loaded.name}; train both on one codec")

    @classmethod
    def load(
        cls,
        name_or_folder: str | os.PathLike[str] = DEFAULT_MUSIC_MODEL,
        *,
        device: str = "auto",
        precision: Precision = "auto",
        partner: str | os.PathLike[str] | None = None,
    ) -> "Generator":
        """Load a shipped model by name, a model folder, or ``owner/name`` from the Hugging Face hub.

        Args:
            name_or_folder: of kind magnet, enat or music_ar.
            device: auto, cpu, or another one.
            precision: as of `speechnar.Transcriber.load`.
            partner: an autoregressive model (music_ar) of the same codec.

        Raises:
            ModelNotFoundError: there is no such model.
            CheckpointError: its files are damaged, or not of this version.
            ConfigError: the device does not exist or not compute in this precision, a model is none of generation, or
                the codecs differ.
        """
        where = find_device(device)

        def read(given: str | os.PathLike[str]) -> LoadedModel:
            return load_prepared(obtain_model(given), device=where, precision=precision)

        try:
            model = read(name_or_folder)
        except ModelNotFoundError:
            if name_or_folder != DEFAULT_MUSIC_MODEL:
                raise
            raise ModelNotFoundError(
                f"the default model {DEFAULT_MUSIC_MODEL!r} is not part of this version; train one by "
                "recipes/opsound/music or recipes/fsdd/sound and name its folder as the model"
            ) from None
        return cls(model, None if partner is None else read(partner))

    @property
    def sample_rate(self) -> int:
        """Of what the model makes, in Hz."""
        return self._model.sample_rate

    @property
    def words(self) -> tuple[str, ...]:
        """What a prompt may be made of; empty if it may be any text."""
        return self._model.condition.words

    @torch.no_grad()
    def generate(
        self,
        prompt: str | None = None,
        *,
        seconds: float = 10.0,
        steps: int | tuple[int, ...] | None = None,
        seed: int = 0,
        continue_from: AudioInput | None = None,
        sample_rate: int | None = None,
        options: GeneratorOptions | None = None,
        progress: Progress | None = None,
        watch: Watch | None = None,
    ) -> Sound:
        """Make music or sound; the same seed makes the same.

        Args:
            prompt: what to make, in words that the model knows; None: whatever it likes.
            seconds: how much is made, besides what it goes on from.
            steps: network evaluations for each window, shared out over the codebooks, or for each codebook; more is
                better and slower. May be given as ``options.steps`` instead.
            seed: 0 or more.
            continue_from: a recording to go on from; it stays as it is, to the last hundredth of a second.
            sample_rate: of ``continue_from``, where it is an array.
            options: rarer choices.
            progress: called after each evaluation.
            watch: likewise, before it, with all that is known by then; not of an autoregressive model.

        Returns:
            What was made, at -16 LUFS; or the recording with what was made behind it, as loud as it goes on.

        Raises:
            ConfigError: the prompt is empty or has unknown words, or an option is out of its range or has no effect.
            AudioError: the recording cannot be read, or is shorter than a span of frames.
        """
        settings = self._check(prompt, seconds, steps, options or GeneratorOptions())
        if sample_rate is not None and continue_from is None:
            raise ConfigError("sample_rate is that of continue_from; give both, or leave it out")
        generator = torch.Generator().manual_seed(check_seed(seed))
        device = next(self._model.parameters()).device
        codec, hop = self._model.codec, self._model.codec.config.hop_length
        before: Samples = np.zeros(0, dtype=np.float32)
        codes = torch.zeros(1, codec.config.num_codebooks, 0, dtype=torch.int64, device=device)
        if continue_from is not None:
            heard = read_audio(
                continue_from, sample_rate=sample_rate, target_rate=self.sample_rate, max_seconds=MAX_SECONDS
            )
            before = heard.samples[: len(heard.samples) // hop * hop]
            if len(before) < settings.span_len * hop:
                least = settings.span_len * hop / self.sample_rate
                raise AudioError(f"a recording to go on from must last {least:.2f} s, got {heard.duration:.2f} s")
            codes, _ = codec.encode(torch.from_numpy(before[-settings.context * hop :].copy())[None].to(device))
        num_known = codes.size(2)
        size = max(1, round(seconds * self.sample_rate))
        wanted = num_known - (-size // hop)
        writer = CodeWriter(
            self._model,
            self._partner,
            settings,
            prompt=prompt,
            generator=generator,
            progress=progress,
            watch=None if watch is None else lambda codes, stays: watch(_sketch(codes, stays, num_known, wanted)),
        )
        codes = writer.extend(codes, wanted)[:, :, :wanted]
        samples = self._decode(codes)
        if continue_from is None:
            samples = normalize(samples[:size], self.sample_rate, LOUDNESS_LUFS)
            samples = _fade(samples, self.sample_rate, at_start=True)
        else:
            samples = samples[: num_known * hop + size]
            joined = _join(before, samples, num_known * hop, round(FADE_S * self.sample_rate))
            samples = _fade(joined, self.sample_rate, at_start=False).clip(-1.0, 1.0)
        first = len(before) // hop - num_known
        joins = tuple((first + frame) * hop / self.sample_rate for frame in writer.joins if frame < wanted)
        return Sound(samples, self.sample_rate, _as_array(codes[:, :, num_known:]), joins)

    @torch.no_grad()
    def infill(
        self,
        recording: AudioInput,
        start: float,
        end: float,
        prompt: str | None = None,
        *,
        steps: int | tuple[int, ...] | None = None,
        seed: int = 0,
        sample_rate: int | None = None,
        options: GeneratorOptions | None = None,
        progress: Progress | None = None,
        watch: Watch | None = None,
    ) -> Sound:
        """Make a part of a recording anew, from what is on both sides of it.

        Args:
            recording: stays as it is, but for this part and a hundredth of a second on both sides.
            start: of the part, in seconds.
            end: of it; both are moved apart to whole frames. As long as one window of the model at most, less a span.
            prompt: as of `generate`, like all others.
            steps: network evaluations.
            seed: 0 or more.
            sample_rate: of ``recording``, where it is an array.
            options: rarer choices, but ``lead_seconds``.
            progress: called after each evaluation.
            watch: likewise, before it, with the codes of the window around the part.

        Raises:
            ConfigError: as `generate`; the model is not parallel, or the part is too long or not within the recording.
            AudioError: the recording cannot be read.
        """
        options = options or GeneratorOptions()
        settings = self._check(prompt, end - start, steps, options)
        if is_autoregressive(self._model) or options.lead_seconds:
            raise ConfigError("only a parallel model fills in, and no partner leads; name one, and leave lead_seconds")
        codec, hop = self._model.codec, self._model.codec.config.hop_length
        heard = read_audio(recording, sample_rate=sample_rate, target_rate=self.sample_rate, max_seconds=MAX_SECONDS)
        whole = heard.samples
        if not 0 <= start < end <= heard.duration + 0.5 * hop / self.sample_rate:
            raise ConfigError(f"the part must lie within the {heard.duration:.2f} s of it, got {start:g} to {end:g} s")
        first, last = int(start * self.sample_rate) // hop, -(-round(end * self.sample_rate) // hop)
        span_len = settings.span_len
        if last - first > settings.window - span_len:
            limit = (settings.window - span_len) * hop / self.sample_rate
            raise ConfigError(f"at most {limit:.2f} s are filled in at once, got {end - start:.2f} s")
        num_frames = -(-len(whole) // hop)
        window = min(settings.window, -(-num_frames // span_len) * span_len)
        begin = max(0, min((first + last - window) // 2, num_frames - window))
        piece = np.pad(whole, (0, -len(whole) % hop))[begin * hop : (begin + window) * hop]
        codes, _ = codec.encode(torch.from_numpy(piece)[None].to(next(self._model.parameters()).device))
        num_heard = codes.size(2)
        frames = torch.arange(window, device=codes.device) + begin
        writer = CodeWriter(
            self._model,
            self._partner,
            settings,
            prompt=prompt,
            generator=torch.Generator().manual_seed(check_seed(seed)),
            progress=progress,
            watch=None if watch is None else lambda codes, stays: watch(_sketch(codes, stays, 0, num_heard)),
        )
        is_known = ((frames < first) | (frames >= last)) & (frames < begin + num_heard)
        codes = writer.fill_in(F.pad(codes, (0, window - num_heard)), is_known)[:, :, :num_heard]
        made = np.zeros_like(whole)
        made[begin * hop : (begin + num_heard) * hop] = self._decode(codes)[: len(whole) - begin * hop]
        samples = _splice(whole, made, first * hop, last * hop, round(FADE_S * self.sample_rate))
        joins = tuple(frame * hop / self.sample_rate for frame in (first, last) if 0 < frame < num_frames)
        return Sound(samples, self.sample_rate, _as_array(codes[:, :, first - begin : last - begin]), joins)

    def _check(
        self, prompt: str | None, seconds: float, steps: int | tuple[int, ...] | None, options: GeneratorOptions
    ) -> "WriterSettings":
        if steps is not None and options.steps is not None:
            raise ConfigError("steps are given twice; leave out steps or options.steps")
        if options.guidance is not None and prompt is None:
            raise ConfigError("guidance is the weight of a prompt; give one, or leave guidance out")
        settings = WriterSettings.of(self._model, seconds, options.steps if steps is None else steps, options)
        if (options.rescore or options.lead_seconds) and (self._partner is None or is_autoregressive(self._model)):
            raise ConfigError(
                "rescore and lead_seconds need a parallel model with a partner; load it with partner=FOLDER"
            )
        return settings

    @torch.no_grad()
    def recode(self, wav: Tensor) -> Sound:
        """Return what the codec makes of the codes of ``wav`` (S,) at the model's rate."""
        codes, _ = self._model.codec.encode(wav[None].to(next(self._model.parameters()).device))
        return Sound(self._decode(codes)[: len(wav)], self.sample_rate, _as_array(codes), ())

    @torch.no_grad()
    def preview(self, sketch: Sketch) -> Samples:
        """Return what a sketch sounds like (S,): its first codebooks, as many as have a code for some frame.

        Frames without one are silent.
        """
        codec = self._model.codec
        codes = torch.from_numpy(sketch.codes.astype(np.int64))[None].to(next(self._model.parameters()).device)
        codes = codes[:, : max(int((codes >= 0).any(2).sum()), 1)]
        latents = codec.quantizer.decode(codes.clamp(min=0))
        wav, _ = codec.decoder(latents, torch.tensor([latents.size(1)], device=latents.device))
        is_tried = (codes[0, 0] >= 0).repeat_interleave(codec.config.hop_length)
        samples: Samples = wav[0].float().masked_fill(~is_tried, 0.0).cpu().numpy()
        return samples

    def _decode(self, codes: Tensor) -> Samples:
        """Return the samples (S,) of codes (1, K, T), made in parts that overlap, so that memory stays flat."""
        codec = self._model.codec
        hop, rate = codec.config.hop_length, codec.config.frame_rate
        size, margin = round(DECODE_S * rate), round(MARGIN_S * rate)
        parts = []
        for start in range(0, codes.size(2), size):
            first = max(0, start - margin)
            wav, _ = codec.decode(codes[:, :, first : start + size + margin])
            parts.append(wav[0, (start - first) * hop : (start - first + size) * hop].cpu().numpy())
        return np.concatenate(parts)


def _same_codec(one: "Magnet | Enat | MusicAr", other: "MusicAr") -> bool:
    if one.codec.config != other.codec.config:
        return False
    pairs = zip(one.codec.state_dict().values(), other.codec.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def _sketch(codes: Tensor, stays: Tensor, num_known: int, wanted: int) -> Sketch:
    """Return codes (1, K, T) without the known ones, up to ``wanted`` frames, the rest of which is not tried yet."""
    missing = (0, max(0, wanted - codes.size(2)))
    shown = F.pad(codes, missing, value=NOT_TRIED)[:, :, num_known:wanted]
    return Sketch(_as_array(shown), F.pad(stays, missing, value=False)[0, :, num_known:wanted].cpu().numpy())


def _as_array(codes: Tensor) -> NDArray[np.int16]:
    """Return codes (1, K, T) as (K, T)."""
    array: NDArray[np.int16] = codes[0].cpu().numpy().astype(np.int16)
    return array


def _fade(samples: Samples, sample_rate: int, *, at_start: bool) -> Samples:
    """Return ``samples`` with their end, and their start if asked, drawn down to silence."""
    size = min(round(FADE_S * sample_rate), len(samples) // 2)
    ramp = np.linspace(0.0, 1.0, size, dtype=np.float32)
    faded = samples.copy()
    faded[len(faded) - size :] *= ramp[::-1]
    if at_start:
        faded[:size] *= ramp
    return faded


def _join(before: Samples, samples: Samples, num_known: int, fade: int) -> Samples:
    """Return ``before`` and then ``samples`` from ``num_known`` on; the one fades into the other at the end of it."""
    fade = min(fade, num_known)
    ramp = np.linspace(0.0, 1.0, fade, dtype=np.float32)
    mixed = before[len(before) - fade :] * (1 - ramp) + samples[num_known - fade : num_known] * ramp
    return np.concatenate([before[: len(before) - fade], mixed, samples[num_known:]])


def _splice(whole: Samples, made: Samples, start: int, end: int, fade: int) -> Samples:
    """Return ``whole`` with ``made`` (S,) from ``start`` to ``end``; the one fades into the other outside of it."""
    weights = np.zeros(len(whole), dtype=np.float32)
    weights[start:end] = 1
    before, behind = weights[max(0, start - fade) : start], weights[end : end + fade]
    before[:] = np.linspace(0.0, 1.0, fade, dtype=np.float32)[fade - len(before) :]
    behind[:] = np.linspace(1.0, 0.0, fade, dtype=np.float32)[: len(behind)]
    return (whole * (1 - weights) + made * weights).clip(-1.0, 1.0)


def generate(
    prompt: str | None = None,
    *,
    seconds: float = 10.0,
    steps: int | tuple[int, ...] | None = None,
    seed: int = 0,
    continue_from: AudioInput | None = None,
    sample_rate: int | None = None,
    options: GeneratorOptions | None = None,
    progress: Progress | None = None,
    watch: Watch | None = None,
    model: str = DEFAULT_MUSIC_MODEL,
    device: str = "auto",
    precision: Precision = "auto",
) -> Sound:
    """Make music or sound; the arguments are those of `Generator.generate` and `Generator.load`.

    The model named last stays loaded.
    """
    return _generator(model, device, precision).generate(
        prompt,
        seconds=seconds,
        steps=steps,
        seed=seed,
        continue_from=continue_from,
        sample_rate=sample_rate,
        options=options,
        progress=progress,
        watch=watch,
    )


@lru_cache(maxsize=1)
def _generator(model: str, device: str, precision: Precision) -> Generator:
    return Generator.load(model, device=device, precision=precision)
