"""Music and sound from words, of any length, going on from a recording, or within one.

A model makes a window of a few seconds at one go. What is longer is made window by window, each of which begins with
the second half of the one before; all codes are then turned into sound together, so that no seam is heard.

Shapes: S samples, K codebooks, T frames.
"""

import os
from collections import Counter
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
from speechnar.decode.mask_predict import MaskPredictConfig, mask_predict
from speechnar.errors import AudioError, ConfigError, ModelNotFoundError
from speechnar.hub import DEFAULT_MUSIC_MODEL, Precision, check_seed, find_device
from speechnar.models.base import LoadedModel
from speechnar.models.prepare import load_prepared
from speechnar.published import obtain_model

if TYPE_CHECKING:  # of the models, only what is loaded is imported
    from typing_extensions import TypeIs

    from speechnar.models.sound.code_model import Condition
    from speechnar.models.sound.enat import Enat
    from speechnar.models.sound.magnet import Magnet
    from speechnar.models.sound.music_ar import MusicAr

MODEL_KINDS = ("magnet", "enat", "music_ar")
AUTOREGRESSIVE = "music_ar"

MAX_SECONDS = 600.0
"""That are made at one call; more is a typing error."""
MAX_STEPS = 1000
MAX_GUIDANCE = 100.0
LOUDNESS_LUFS = -16.0
FADE_S = 0.01
"""At both ends, and from a recording to what goes on from it."""
DECODE_S, MARGIN_S = 20.0, 1.0
"""Codes are turned into sound in parts of this length, each with what is before and after it."""

Progress = Callable[[str, int, int], None]
"""Is given the stage, how many of its network evaluations are done, and how many it has in all windows."""
NOT_TRIED = -1
"""Stands in a `Sketch` for a code of which nothing is known yet."""


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


@dataclass(frozen=True, kw_only=True)
class GeneratorOptions:
    """How to generate, for whoever wants it otherwise; None: as the model says."""

    steps: int | tuple[int, ...] | None = None
    """Network evaluations for each window of a parallel model, or for each codebook of a window."""
    guidance: float | None = None
    """Weight of a prompt, at first for a parallel model; 1: none beyond it."""
    temperature: float | None = None
    rescore: bool = False
    """Let the autoregressive partner have a say in what a parallel model keeps."""
    lead_seconds: float = 0.0
    """How much the autoregressive partner makes before a parallel model goes on (hybrid)."""


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
        writer = _Writer(
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
        if _is_autoregressive(self._model) or options.lead_seconds:
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
        writer = _Writer(
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
    ) -> "_Settings":
        if steps is not None and options.steps is not None:
            raise ConfigError("steps are given twice; leave out steps or options.steps")
        if options.guidance is not None and prompt is None:
            raise ConfigError("guidance is the weight of a prompt; give one, or leave guidance out")
        settings = _Settings.of(self._model, seconds, options.steps if steps is None else steps, options)
        if (options.rescore or options.lead_seconds) and (self._partner is None or _is_autoregressive(self._model)):
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


@dataclass(frozen=True)
class _Settings:
    """Options that were checked, for one model."""

    window: int
    """Frames made at one go, known ones included; a multiple of a span."""
    context: int
    """Frames of a window that are known from the one before."""
    span_len: int
    lead: int
    """Frames that the partner makes."""
    rescore: bool
    sampling: MaskPredictConfig | None
    """Of a parallel model."""
    guidance: float
    temperature: float | None

    @classmethod
    def of(
        cls,
        model: "Magnet | Enat | MusicAr",
        seconds: float,
        steps: int | tuple[int, ...] | None,
        options: GeneratorOptions,
    ) -> "_Settings":
        if not 0 < seconds <= MAX_SECONDS:  # NaN is not, either
            raise ConfigError(f"seconds must lie in (0, {MAX_SECONDS:g}], got {seconds}")
        if options.guidance is not None and not 0 <= options.guidance <= MAX_GUIDANCE:
            raise ConfigError(f"guidance must lie in [0, {MAX_GUIDANCE:g}], got {options.guidance}")
        if options.temperature is not None and not 0 < options.temperature <= MAX_GUIDANCE:
            raise ConfigError(f"temperature must lie in (0, {MAX_GUIDANCE:g}], got {options.temperature}")
        config = model.config
        span_len = 1 if _is_autoregressive(model) else model.config.span_len
        window = -(-config.window_frames // span_len) * span_len  # 10 s are 500 frames: rounded down, they would be two
        lead = options.lead_seconds * config.codec.frame_rate
        if not 0 <= lead <= window - span_len:
            limit = (window - span_len) / config.codec.frame_rate
            raise ConfigError(f"lead_seconds must lie in [0, {limit:g}], got {options.lead_seconds}")
        sampling = None
        if _is_autoregressive(model):
            if steps is not None:
                raise ConfigError("steps are for a parallel model; an autoregressive one takes one for each frame")
            guidance = model.config.sampling.guidance
        else:
            sampling = model.config.sampling
            if steps is not None:
                sampling = sampling.model_copy(update={"steps": share_steps(steps, sampling.steps)})
            if options.temperature is not None:
                sampling = sampling.model_copy(update={"temperature": options.temperature})
            guidance = sampling.guidance[0]
        guidance = guidance if options.guidance is None else options.guidance
        if sampling is not None:
            sampling = sampling.model_copy(update={"guidance": (guidance, min(guidance, sampling.guidance[1]))})
        context = window // 2 // span_len * span_len
        return cls(window, context, span_len, int(lead), options.rescore, sampling, guidance, options.temperature)


def share_steps(total: int | tuple[int, ...], steps: tuple[int, ...]) -> tuple[int, ...]:
    """Return ``total`` evaluations for the codebooks, in the proportions of ``steps``; at least one for each.

    Those of each codebook may be given instead.

    Raises:
        ConfigError: there are fewer than codebooks, too many, or not as many numbers as codebooks.
    """
    if isinstance(total, tuple):
        if len(total) != len(steps) or not all(1 <= each <= MAX_STEPS for each in total):
            raise ConfigError(
                f"steps must be one number for each of {len(steps)} codebooks, each in [1, {MAX_STEPS}]; got "
                f"{','.join(map(str, total))}"
            )
        return total
    if not len(steps) <= total <= MAX_STEPS:
        raise ConfigError(f"steps must lie in [{len(steps)}, {MAX_STEPS}], one for each codebook at least; got {total}")
    shares = [max(1, round(total * each / sum(steps))) for each in steps]
    shares[0] = max(1, shares[0] + total - sum(shares))
    return tuple(shares)


WatchCodes = Callable[[Tensor, Tensor], None]
"""Shown codes (1, K, T) and which of them stay."""


class _Writer:
    """Writes codes, window by window."""

    def __init__(
        self,
        model: "Magnet | Enat | MusicAr",
        partner: "MusicAr | None",
        settings: _Settings,
        *,
        prompt: str | None,
        generator: torch.Generator,
        progress: Progress | None,
        watch: WatchCodes | None,
    ) -> None:
        self.model, self.partner, self.settings = model, partner, settings
        self.generator, self.progress, self.watch = generator, progress, watch
        self.device = next(model.parameters()).device
        self.condition = self._condition_of(model, prompt)
        is_guided = prompt is not None and settings.guidance != 1.0
        self.unconditional = self._condition_of(model, None) if is_guided else None
        self.partner_condition = None if partner is None else self._condition_of(partner, prompt)
        self.done: Counter[str] = Counter()
        self.total: Counter[str] = Counter()
        self.joins: list[int] = []
        """Frames at which what is made goes on from what is there."""

    def _condition_of(self, model: "Magnet | Enat | MusicAr", prompt: str | None) -> "Condition":
        if prompt is not None and not prompt.strip():
            raise ConfigError("a prompt must have a word; leave it out (None) to generate without one")
        return model.condition.of_texts([prompt], self.device)

    def extend(self, codes: Tensor, wanted: int) -> Tensor:
        """Return ``codes`` (1, K, T) with more behind them, ``wanted`` frames in all, or a few more."""
        settings = self.settings
        length = codes.size(2)
        while length < wanted:
            num_known = min(length, settings.context)
            self.total.update(self._stages(num_known))
            length += settings.window - num_known
        while codes.size(2) < wanted:
            known = codes[:, :, max(0, codes.size(2) - settings.context) :]
            if known.size(2):
                self.joins.append(codes.size(2))
            if settings.lead > known.size(2):
                self.joins.append(codes.size(2) - known.size(2) + settings.lead)
            if _is_autoregressive(self.model):
                made = self._write_frames(self.model, self.condition, self.unconditional, known, settings.window)
            else:
                made = self._fill(known, codes[:, :, : codes.size(2) - known.size(2)])
            codes = torch.cat([codes, made[:, :, known.size(2) :]], dim=2)
        return codes

    def fill_in(self, codes: Tensor, is_known: Tensor) -> Tensor:
        """Return one window of ``codes`` (1, K, T) by a parallel model, anew where ``is_known`` (T,) is False."""
        self.total.update(self._stages(0))
        return self._predict(codes, is_known, codes[:, :, :0])

    def _stages(self, num_known: int) -> list[str]:
        """Return the stage of each evaluation of a window."""
        if self.settings.sampling is None:
            return ["frames"] * (self.settings.window - num_known + self.model.config.codec.num_codebooks - 1)
        steps = self.settings.sampling.steps
        return [f"codebook {k} of {len(steps)}" for k, count in enumerate(steps, 1) for _ in range(count)]

    def _tick(self, stage: str) -> None:
        self.done[stage] += 1
        if self.progress is not None:
            self.progress(stage, self.done[stage], self.total[stage])

    def _write_frames(
        self,
        model: "MusicAr",
        condition: "Condition",
        unconditional: "Condition | None",
        known: Tensor,
        num_frames: int,
    ) -> Tensor:
        """Return a window (1, K, num_frames) by an autoregressive model."""
        updates: dict[str, float] = {"guidance": self.settings.guidance} if model is self.model else {}
        if self.settings.temperature is not None and model is self.model:
            updates["temperature"] = self.settings.temperature
        return model.generate(
            known,
            num_frames,
            condition,
            unconditional=unconditional,
            generators=[self.generator],
            sampling=model.config.sampling.model_copy(update=updates),
            progress=(lambda _done, _total: self._tick("frames")) if model is self.model else None,
        )

    def _fill(self, known: Tensor, before: Tensor) -> Tensor:
        """Return a window (1, K, T) by a parallel model, with help of the partner if that is asked for.

        ``before`` (1, K, N) is shown to whoever watches, and not needed else.
        """
        settings = self.settings
        partner, condition = self.partner, self.partner_condition
        if settings.lead > known.size(2) and partner is not None and condition is not None:
            unconditional = None if self.unconditional is None else self._condition_of(partner, None)
            known = self._write_frames(partner, condition, unconditional, known, settings.lead)
        codes = torch.zeros(1, known.size(1), settings.window, dtype=torch.int64, device=self.device)
        codes[:, :, : known.size(2)] = known
        return self._predict(codes, torch.arange(settings.window, device=self.device) < known.size(2), before)

    def _predict(self, codes: Tensor, is_known: Tensor, before: Tensor) -> Tensor:
        settings, model, watch = self.settings, self.model, self.watch
        assert settings.sampling is not None
        assert not _is_autoregressive(model)
        partner, condition = self.partner, self.partner_condition
        stages = self._stages(0)
        predictor = model.predictor(self.condition, self.unconditional)
        mask_id = predictor.mask_id
        return mask_predict(
            predictor,
            codes,
            is_known,
            settings.sampling,
            span_len=settings.span_len,
            generators=[self.generator],
            rescore=partner.rescorer(condition) if settings.rescore and partner and condition else None,
            progress=lambda done, _total: self._tick(stages[done - 1]),
            watch=None
            if watch is None
            else lambda codes, stays: watch(
                torch.cat([before, codes.masked_fill(codes == mask_id, NOT_TRIED)], dim=2),
                torch.cat([torch.ones_like(before, dtype=torch.bool), stays], dim=2),
            ),
        )


def _is_autoregressive(model: "Magnet | Enat | MusicAr") -> "TypeIs[MusicAr]":
    return model.config.kind == AUTOREGRESSIVE


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
