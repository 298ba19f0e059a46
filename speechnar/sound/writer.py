"""Codes of any length by a model of a few seconds, or going on from those of a recording.

A model makes a window at one go. What is longer is made window by window, each of which begins with the second half of
the one before.

Shapes: K codebooks, T frames.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from speechnar.decode.mask_predict import MaskPredictConfig, mask_predict
from speechnar.errors import ConfigError
from speechnar.sound.options import MAX_GUIDANCE, MAX_SECONDS, GeneratorOptions, share_steps

if TYPE_CHECKING:  # of the models, only what is loaded is imported
    from typing_extensions import TypeIs

    from speechnar.models.sound.code_model import Condition
    from speechnar.models.sound.enat import Enat
    from speechnar.models.sound.magnet import Magnet
    from speechnar.models.sound.music_ar import MusicAr

AUTOREGRESSIVE = "music_ar"

Progress = Callable[[str, int, int], None]
"""Is given the stage, how many of its network evaluations are done, and how many it has in all windows."""
WatchCodes = Callable[[Tensor, Tensor], None]
"""Shown codes (1, K, T) and which of them stay."""
NOT_TRIED = -1
"""Stands in a `Sketch` for a code of which nothing is known yet."""


@dataclass(frozen=True)
class WriterSettings:
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
    ) -> "WriterSettings":
        """Check ``options`` for a model.

        Raises:
            ConfigError: one is out of its range, or has no effect with this model.
        """
        if not 0 < seconds <= MAX_SECONDS:  # NaN is not, either
            raise ConfigError(f"seconds must lie in (0, {MAX_SECONDS:g}], got {seconds}")
        if options.guidance is not None and not 0 <= options.guidance <= MAX_GUIDANCE:
            raise ConfigError(f"guidance must lie in [0, {MAX_GUIDANCE:g}], got {options.guidance}")
        if options.temperature is not None and not 0 < options.temperature <= MAX_GUIDANCE:
            raise ConfigError(f"temperature must lie in (0, {MAX_GUIDANCE:g}], got {options.temperature}")
        config = model.config
        span_len = 1 if is_autoregressive(model) else model.config.span_len
        window = -(-config.window_frames // span_len) * span_len  # 10 s are 500 frames: rounded down, they would be two
        lead = options.lead_seconds * config.codec.frame_rate
        if not 0 <= lead <= window - span_len:
            limit = (window - span_len) / config.codec.frame_rate
            raise ConfigError(f"lead_seconds must lie in [0, {limit:g}], got {options.lead_seconds}")
        sampling = None
        if is_autoregressive(model):
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


class CodeWriter:
    """Writes codes, window by window."""

    def __init__(
        self,
        model: "Magnet | Enat | MusicAr",
        partner: "MusicAr | None",
        settings: WriterSettings,
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
            if is_autoregressive(self.model):
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
        assert not is_autoregressive(model)
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


def is_autoregressive(model: "Magnet | Enat | MusicAr") -> "TypeIs[MusicAr]":
    """Tell whether a model makes one frame after another."""
    return model.config.kind == AUTOREGRESSIVE
