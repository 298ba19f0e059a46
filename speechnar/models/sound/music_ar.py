"""The autoregressive twin of MAGNeT: the same codes, one frame after another, with the delay pattern of MusicGen.

Every claim for parallel decoding is a claim against it, so it caches keys and values. It also scores what MAGNeT makes
(rescoring), and makes the first seconds of what MAGNeT goes on with (the hybrid mode).

At step s it sees the codes of codebook k at frame s - 1 - k and predicts those at frame s - k: the codebooks of a frame
come one after another, all codebooks of a step at once.

Shapes: B utterances, T frames, K codebooks, V codes of a codebook, D model width, N steps (T + K - 1), M frames.
Sources: Copet et al., "Simple and Controllable Music Generation" (MusicGen), NeurIPS 2023, section 2 (delay pattern);
Ziv et al. (MAGNeT), ICLR 2024, sections 3.3 and 3.4 (rescoring, hybrid).
Differs from MusicGen: of a share of the utterances, the codebooks above a random one are hidden, so that it can score
codes while those above are not known.
"""

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor
from torch.nn import functional as F

from speechnar.config import Config
from speechnar.data.batch import SpeechBatch
from speechnar.data.codes import CodeBatch
from speechnar.errors import ConfigError, ShapeError
from speechnar.models.base import LossOutput
from speechnar.models.sound.code_model import (
    CodeGenerator,
    CodeGeneratorConfig,
    CodeModelConfig,
    Condition,
    TextConfig,
    add_condition,
    build_context,
    build_transformer,
    draw_codes_of,
    draw_left_out,
    join_conditions,
)
from speechnar.models.sound.encodec import EncodecConfig
from speechnar.nn.decoder import KeyValueCache
from speechnar.text.tokenizer import Tokenizer


class ArSamplingConfig(Config):
    """How codes are drawn one after another; the defaults are MusicGen's."""

    temperature: PositiveFloat = 1.0
    top_k: PositiveInt = 250
    """Codes are drawn from so many of the most probable ones."""
    guidance: NonNegativeFloat = 3.0
    """Weight of the condition; 1 is none beyond it."""


class MusicArConfig(CodeGeneratorConfig):
    """The generator and its codec; the defaults are for 10 s of music on a CPU core."""

    kind: Literal["music_ar"] = "music_ar"
    hidden_prob: float = Field(default=0.25, ge=0, le=1)
    """Share of the utterances whose codebooks above a random one are hidden."""
    sampling: ArSamplingConfig = ArSamplingConfig(top_k=64, guidance=2.0)
    """How it generates unless it is asked otherwise."""

    @classmethod
    def debug(cls) -> "MusicArConfig":
        """Return the smallest, for tests."""
        return cls(
            codec=EncodecConfig.debug(),
            network=CodeModelConfig.debug(),
            window_frames=24,
            sampling=ArSamplingConfig(top_k=8, guidance=2.0),
        )

    @classmethod
    def published(cls) -> "MusicArConfig":
        """Return MusicGen small."""
        return cls(
            codec=EncodecConfig.published(),
            network=CodeModelConfig.published(),
            condition=TextConfig(),
            window_frames=1500,
            left_out_prob=0.3,
            hidden_prob=0.0,
            sampling=ArSamplingConfig(),
        )


def delayed(codes: Tensor, fill: int) -> Tensor:
    """Return (B, K, T + K - 1): codebook k moved k steps later, ``fill`` where there is no code."""
    num_codebooks = codes.size(1)
    rows = [F.pad(codes[:, k], (k, num_codebooks - 1 - k), value=fill) for k in range(num_codebooks)]
    return torch.stack(rows, dim=1)


class MusicAr(CodeGenerator):
    """A condition, and the codes so far, to the next ones."""

    def __init__(self, config: MusicArConfig, tokenizer: Tokenizer) -> None:
        super().__init__(config, tokenizer)
        self.config = config
        self.transformer = build_transformer(config)

    def forward(self, codes: Tensor, condition: Condition) -> Tensor:
        """Return logits (B, K, T, V) float32 of every code, given those before it; V hides a code that is given."""
        logits = self._steps(self._inputs(codes), condition)
        frames = codes.size(2)
        return torch.stack([logits[:, k, k : k + frames] for k in range(codes.size(1))], dim=1)

    def _inputs(self, codes: Tensor) -> Tensor:
        """Return what is given at each step (B, K, N): nothing at first, then the delayed codes of the step before."""
        fill = self.embed.mask_id
        return F.pad(delayed(codes, fill)[:, :, :-1], (1, 0), value=fill)

    def _steps(self, inputs: Tensor, condition: Condition) -> Tensor:
        """Return logits (B, K, N, V) float32 behind each step."""
        places = torch.arange(inputs.size(2), device=inputs.device)
        context = build_context(self.config.network, condition, places, is_causal=True)
        x = self.norm(self.transformer(add_condition(self.embed(inputs), condition), context))
        return torch.stack([head(x) for head in self.heads], dim=1).float()

    def loss(self, batch: SpeechBatch | CodeBatch) -> LossOutput:
        """Return the cross-entropy of a code, in nats, the mean over codebooks; ``weight`` is in utterances.

        ``parts`` has that of each codebook (``nll_0``). In evaluation mode the same batch has the same loss every time,
        no condition is left out and nothing is hidden. What is hidden counts all the same, and cannot be known as well.

        Raises:
            DataError: as `speechnar.models.sound.code_model.draw_codes_of`.
        """
        config = self.config
        generator = None if self.training else torch.Generator(batch.tokens.device).manual_seed(0)
        codes = draw_codes_of(batch, self.codec, config.learned_frames, generator)
        count, num_codebooks, _ = codes.shape
        left_out = draw_left_out(count, config.left_out_prob if self.training else 0.0, codes.device)
        condition = self.condition(batch.tokens, batch.token_lens, left_out)
        given = codes
        if self.training and config.hidden_prob:
            coins, places = torch.rand(2, count, 1, 1, device=codes.device)
            highest = (places * num_codebooks).long()
            above = torch.arange(num_codebooks, device=codes.device)[:, None] > highest
            given = codes.masked_fill(above & (coins < config.hidden_prob), self.embed.mask_id)
        logits = self(given, condition)
        nll = F.cross_entropy(logits.flatten(0, 2), codes.flatten(), reduction="none").view(codes.shape)
        means = nll.mean((0, 2))
        parts = {f"nll_{k}": mean for k, mean in enumerate(means.detach())}
        return LossOutput(means.mean(), parts, torch.tensor(float(count), device=codes.device))

    @torch.no_grad()
    def generate(
        self,
        prompt: Tensor,
        num_frames: int,
        condition: Condition,
        *,
        unconditional: Condition | None,
        generators: Sequence[torch.Generator],
        sampling: ArSamplingConfig | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> Tensor:
        """Return codes (B, K, num_frames) that begin with ``prompt`` (B, K, P), P >= 0.

        Args:
            prompt: is kept.
            num_frames: P and more, at most ``window_frames``.
            condition: of each utterance.
            unconditional: for guidance; None: without.
            generators: on the CPU, one for each utterance.
            sampling: how; None: as the configuration says.
            progress: told after each step how many are done, and how many there are.

        Raises:
            ShapeError: the prompt leaves nothing to generate, or the generators are not as many as utterances.
            ConfigError: more frames are asked for than a window has.
        """
        count, num_codebooks, num_known = prompt.shape
        if not num_known < num_frames or len(generators) != count:
            raise ShapeError(
                f"need a prompt shorter than {num_frames} frames and a generator for each of {count} utterances; got "
                f"{tuple(prompt.shape)} and {len(generators)}"
            )
        if num_frames > self.config.window_frames:
            raise ConfigError(f"at most {self.config.window_frames} frames at one go, got {num_frames}")
        sampling = sampling or self.config.sampling
        both = (condition if unconditional is None else join_conditions([condition, unconditional])).keep()
        fill, num_steps = self.embed.mask_id, num_frames + num_codebooks - 1
        steps = delayed(F.pad(prompt, (0, num_frames - num_known), value=fill), fill)  # (B, K, N), to be filled in
        inputs = F.pad(steps[:, :, :num_known], (1, 0), value=fill)  # what leads to the first step with a new code
        caches = self.transformer.new_caches()
        codebooks = torch.arange(num_codebooks, device=prompt.device)
        for step in range(num_known, num_steps):
            logits = self._next(inputs, both, caches, is_guided=unconditional is not None, guidance=sampling.guidance)
            uniforms = torch.stack([torch.rand(num_codebooks, generator=generator) for generator in generators])
            picks = _draw_top_k(logits / sampling.temperature, uniforms.to(logits.device), sampling.top_k)
            frames = step - codebooks
            is_new = (frames >= num_known) & (frames < num_frames)
            steps[:, :, step] = torch.where(is_new, picks, steps[:, :, step])
            inputs = steps[:, :, step : step + 1]
            if progress is not None:
                progress(step - num_known + 1, num_steps - num_known)
        return torch.stack([steps[:, k, k : k + num_frames] for k in range(num_codebooks)], dim=1)

    def _next(
        self, inputs: Tensor, condition: Condition, caches: list[KeyValueCache], *, is_guided: bool, guidance: float
    ) -> Tensor:
        """Return guided logits (B, K, V) behind the last of ``inputs`` (B, K, n), which go on from the caches."""
        first = caches[0].length
        if is_guided:
            inputs = torch.cat([inputs, inputs])
        keys = torch.arange(first + inputs.size(2), device=inputs.device)
        context = build_context(self.config.network, condition, keys[first:], keys, is_causal=first == 0)
        x = self.norm(self.transformer(add_condition(self.embed(inputs, first), condition), context, caches)[:, -1])
        logits = torch.stack([head(x) for head in self.heads], dim=1).float()
        if not is_guided:
            return logits
        conditional, unconditional = logits.chunk(2)
        return unconditional + (conditional - unconditional) * guidance

    def rescorer(self, condition: Condition) -> Callable[[Tensor, int, Tensor], Tensor]:
        """Return what `speechnar.decode.mask_predict.mask_predict` takes as ``rescore``: a parallel pass each time."""

        def rescore(codes: Tensor, codebook: int, positions: Tensor) -> Tensor:
            logits = self(codes, condition)[:, codebook]
            probs = logits.softmax(-1).gather(-1, codes[:, codebook].clamp(max=self.embed.mask_id - 1)[..., None])
            return probs[..., 0].gather(1, positions)

        return rescore


def _draw_top_k(logits: Tensor, uniforms: Tensor, top_k: int) -> Tensor:
    """Return the codes (B, K) that ``uniforms`` (B, K) pick from the ``top_k`` best of ``logits`` (B, K, V)."""
    best, ids = logits.topk(min(top_k, logits.size(-1)), dim=-1)
    sums = best.softmax(-1).cumsum(-1)
    picks = (sums <= uniforms[..., None] * sums[..., -1:]).sum(-1, keepdim=True).clamp(max=best.size(-1) - 1)
    return ids.gather(-1, picks)[..., 0]
