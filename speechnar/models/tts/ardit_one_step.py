"""One evaluation per block: three ways for an ARDiT to turn noise into latents in a single step.

The one-step generator is an ARDiT too, g(w) = w - v(w, 1), and runs as ``generate(..., num_steps=1)``. Like ARDiT's own
training, all losses treat every block of an utterance at once and give it the true latents before it.

- Regression: repeat, for the same noise, what a teacher reaches in many steps. It comes first.
- Distribution matching: lower the integral Kullback-Leibler divergence between the generator's samples and the
  teacher's. A third ARDiT, the fake one, learns the velocity of the samples meanwhile. All three begin as the teacher.
- Energy score: needs no other network, and may start from nothing.

`TtsDistillation` is what the training loop trains by any of them, and what it leaves is an ordinary `Tts`.

Shapes: B utterances, S samples, U text tokens, M latents to generate, C latent channels.
Sources: Liu et al., "Autoregressive Diffusion Transformer for Text-to-Speech Synthesis", 2024, section 3.1; Luo et al.,
"Diff-Instruct", NeurIPS 2023 (integral Kullback-Leibler divergence); Yin et al., "One-step Diffusion with Distribution
Matching Distillation", CVPR 2024; Gneiting and Raftery, "Strictly Proper Scoring Rules, Prediction, and Estimation",
JASA 2007, section 4.3 (energy score).

Differs from the paper:
- two steps of the fake one for each of matching (there, one of each): the student of our tests no longer swings about
  its goal.
- regression and matching are means over the channels (there, sums); it weighs the one against the other by 2.0, at last
  0.1, for blocks of 1, and by 1.0, at last 0.2, for blocks of 4.
- the energy score is ours.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import ClassVar, Literal

import torch
from pydantic import NonNegativeFloat, PositiveInt
from torch import Tensor

from speechnar.data.batch import SpeechBatch
from speechnar.data.latents import LatentBatch
from speechnar.decode.flow import euler, mix
from speechnar.models.base import LossOutput, ModelConfig, Trainable, Turn
from speechnar.models.tts.ardit import Ardit, Middle, blur, draw_middle, draw_times
from speechnar.models.tts.tts import Tts, TtsConfig
from speechnar.nn.lengths import valid_mask, zero_padding
from speechnar.text.tokenizer import Tokenizer

SMALLEST_SQUARE = 1e-12
"""Under a root, whose slope is infinite at 0."""


def sample_blocks(model: Ardit, speech: LatentBatch, middle: Middle, noise: Tensor, num_steps: int) -> Tensor:
    """Return a sample (B, M, C) of every block from ``noise`` (B, M, C), each after the true latents before it.

    Gradients flow through it. With many steps, and without gradients, these are the regression's targets: draw
    ``noise`` once for each utterance, and keep the pairs.

    Raises:
        ConfigError: ``num_steps`` is less than 1.
    """
    times = torch.ones_like(middle.blocks, dtype=torch.float32)
    return euler(lambda x, t: model.velocity(speech, middle, x, times * t), noise, num_steps)


def regression_loss(student: Ardit, speech: LatentBatch, middle: Middle, noise: Tensor, targets: Tensor) -> LossOutput:
    """Return the mean squared error per channel between g(noise) and ``targets`` (B, M, C); in equation 8, L_reg."""
    samples = sample_blocks(student, speech, middle, noise, 1)
    return middle.mean(speech.weigh((samples - targets).square()).mean(-1))


def matching_loss(
    student: Ardit, speech: LatentBatch, middle: Middle, noise: Tensor, *, teacher: Ardit, fake: Ardit
) -> LossOutput:
    """Return a loss whose gradient at the samples x = g(noise) is twice v_teacher - v_fake at a noisy x.

    That is the gradient of the integral Kullback-Leibler divergence (equation 5), weighted over time by 2 t / (1 - t):
    the score of a distribution is -((1 - t) v + x) / t (equation 3). In equation 8 it is L_IKL. Its value, the mean
    square of that difference, tells how far the two are apart. Only ``student`` receives gradients; ``teacher`` and
    ``fake`` are best in evaluation mode.
    """
    samples = sample_blocks(student, speech, middle, noise, 1)
    with torch.no_grad():
        times = draw_times(middle)
        noisy, _ = mix(samples, torch.randn_like(samples), times)
        ahead = teacher.velocity(speech, middle, noisy, times) - fake.velocity(speech, middle, noisy, times)
        rest = ahead - samples
    return middle.mean(speech.weigh((samples + rest).square()).mean(-1))


def fake_loss(fake: Ardit, speech: LatentBatch, middle: Middle, noise: Tensor, *, student: Ardit) -> LossOutput:
    """Return the flow-matching loss of ``fake`` on g(noise), without gradients for ``student`` (equation 6)."""
    with torch.no_grad():
        samples = sample_blocks(student, speech, middle, noise, 1)
    return fake.flow_loss(speech, middle, samples)


def energy_loss(student: Ardit, speech: LatentBatch, middle: Middle, truth: Tensor, noises: Tensor) -> LossOutput:
    """Return the mean over blocks of |x - z| + |x' - z| - |x - x'|, least where samples are distributed like data.

    x and x' are the samples of a block, as one vector, from the two ``noises`` (2, B, M, C), and z is what is true, of
    ``truth`` (B, M, C); the weight is the number of blocks. Without the last term the best samples would be the median,
    all the same.
    """
    first, second = (sample_blocks(student, speech, middle, w, 1) for w in noises)
    pairs = ((first, truth), (second, truth), (first, second))
    to_first, to_second, apart = (_distances(speech.weigh((x - y).square()), middle) for x, y in pairs)
    num_blocks = middle.blocks.gather(1, middle.lens[:, None] - 1)[:, 0] + 1
    weight = num_blocks.sum()
    scores = zero_padding(to_first + to_second - apart, valid_mask(num_blocks, apart.size(1)))
    return LossOutput(total=scores.sum() / weight, weight=weight)


def _distances(squares: Tensor, middle: Middle) -> Tensor:
    """Return the root of the sum over each block of ``squares`` (B, M, C): (B, the most blocks of any utterance)."""
    squares = zero_padding(squares.sum(-1), middle.valid)
    sums = squares.new_zeros(len(squares), int(middle.blocks.max()) + 1).scatter_add(1, middle.blocks, squares)
    return (sums + SMALLEST_SQUARE).sqrt()


class TtsDistillationConfig(ModelConfig):
    """What is taught, and how."""

    kind: Literal["tts_distillation"] = "tts_distillation"
    tts: TtsConfig = TtsConfig()
    method: Literal["regression", "matching", "energy"] = "matching"
    teacher_steps: PositiveInt = 16
    """Evaluations per block behind each target of the regression."""
    regression_weight: NonNegativeFloat = 0.2
    """Of the regression beside matching; 0 saves the teacher's evaluations. See above for the paper's."""

    @classmethod
    def debug(cls) -> "TtsDistillationConfig":
        """Return the smallest of every part, for tests."""
        return cls(tts=TtsConfig.debug(), teacher_steps=4)

    @classmethod
    def published(cls) -> "TtsDistillationConfig":
        """Return the paper's end of training, after its regression, for blocks of 4."""
        return cls(tts=TtsConfig.published())


class TtsDistillation(Trainable):
    """A model of text to speech whose ARDiT learns to speak in one step.

    Regression and matching need a trained one to start from, and leave its durations as they are; with the energy score
    everything may start from nothing but codec and vocoder, and durations are learned beside. Dropout is off in all
    ARDiTs: its noise would be part of what a sample is.
    """

    learns_from = ("speech",)
    warm_starts: ClassVar[Mapping[str, str]] = {
        "tts": "tts.",
        **{kind: f"tts.{prefix}" for kind, prefix in Tts.warm_starts.items()},
    }

    def __init__(self, config: TtsDistillationConfig, vocab_size: int) -> None:
        super().__init__()
        self.config = config
        self.tts = Tts(config.tts, vocab_size)
        self.teacher = Ardit(config.tts.ardit, vocab_size) if config.method != "energy" else None
        self.fake = Ardit(config.tts.ardit, vocab_size) if config.method == "matching" else None
        if self.teacher is not None:
            self.teacher.requires_grad_(False)
            self.tts.durations.requires_grad_(False)

    @classmethod
    def from_config(cls, config: TtsDistillationConfig, tokenizer: Tokenizer) -> "TtsDistillation":
        """Build the model for the symbols of ``tokenizer``."""
        return cls(config, tokenizer.vocab_size)

    @property
    def sample_rate(self) -> int:
        """Samples per second of what the model learns from."""
        return self.tts.sample_rate

    @property
    def exported(self) -> Tts:
        """What is kept of a finished run."""
        return self.tts

    @property
    def pretrained(self) -> tuple[str, ...]:
        """Parts that must come from elsewhere."""
        parts = (*self.tts.pretrained, "ardit.") if self.teacher is not None else self.tts.pretrained
        return tuple(f"tts.{part}" for part in parts)

    def begin(self) -> None:
        """Make teacher and fake copies of the ARDiT that the run starts from."""
        for other in (self.teacher, self.fake):
            if other is not None:
                other.load_state_dict(self.tts.ardit.state_dict())

    def train(self, mode: bool = True) -> "TtsDistillation":
        """Set the mode, which changes what is drawn for a loss; only the predictor of durations has dropout."""
        super().train(mode)
        for ardit in (self.tts.ardit, self.teacher, self.fake):
            if ardit is not None:
                ardit.eval()
        return self

    def turns(self) -> Sequence[Turn]:
        """Return the student's turn, after two of the fake one where there is one."""
        student = Turn("student", self.student_loss, "tts.")
        fake = Turn("fake", self.fake_loss, "fake.")
        return [student] if self.fake is None else [fake, fake, student]

    def loss(self, batch: SpeechBatch) -> LossOutput:
        """Return the energy score of the student, which ranks students of every method on held-out speech.

        ``parts`` has it as ``energy``, and what else the method lowers and can be measured: ``regression`` or
        ``duration``, which is also in the total. In evaluation mode the same batch has the same loss every time.
        """
        generator = None if self.training else torch.Generator(batch.wav.device).manual_seed(0)
        output = self._energy_loss(batch, generator)
        if self.config.method == "regression":
            output.parts["regression"] = self._regression_loss(*self._draw(batch, generator), generator).total.detach()
        return output

    def student_loss(self, batch: SpeechBatch) -> LossOutput:
        """Return the student's loss by the method of the configuration; ``parts`` are without weights.

        Raises:
            DataError: as `Tts.latents`.
        """
        if self.config.method == "energy":
            return self._energy_loss(batch)
        speech, middle = self._draw(batch)
        if self.config.method == "regression":
            return self._regression_loss(speech, middle)
        assert self.teacher is not None
        assert self.fake is not None
        student, noise = self.tts.ardit, self._noise(middle)
        matching = matching_loss(student, speech, middle, noise, teacher=self.teacher, fake=self.fake)
        total, parts = matching.total, {"matching": matching.total.detach()}
        if self.config.regression_weight:
            regression = self._regression_loss(speech, middle).total
            total = total + self.config.regression_weight * regression
            parts["regression"] = regression.detach()
        return LossOutput(total, parts, matching.weight)

    def fake_loss(self, batch: SpeechBatch) -> LossOutput:
        """Return the loss of the fake one on what the student says."""
        assert self.fake is not None, "only matching has a turn of the fake one"
        speech, middle = self._draw(batch)
        return fake_loss(self.fake, speech, middle, self._noise(middle), student=self.tts.ardit)

    def _energy_loss(self, batch: SpeechBatch, generator: torch.Generator | None = None) -> LossOutput:
        clean, middle = self._draw(batch, generator, is_blurred=False)
        noises = torch.stack([self._noise(middle, generator), self._noise(middle, generator)])
        truth = middle.take(clean.latents)
        energy = energy_loss(self.tts.ardit, self._blur(clean), middle, truth, noises)
        parts = {"energy": energy.total.detach()}
        if self.teacher is not None:
            return LossOutput(energy.total, parts, energy.weight)
        duration = self.tts.duration_loss(clean, batch.durations)
        return LossOutput(energy.total + duration, parts | {"duration": duration.detach()}, energy.weight)

    def _regression_loss(
        self, speech: LatentBatch, middle: Middle, generator: torch.Generator | None = None
    ) -> LossOutput:
        assert self.teacher is not None
        noise = self._noise(middle, generator)
        with torch.no_grad():
            targets = sample_blocks(self.teacher, speech, middle, noise, self.config.teacher_steps)
        return regression_loss(self.tts.ardit, speech, middle, noise, targets)

    def _draw(
        self, batch: SpeechBatch, generator: torch.Generator | None = None, *, is_blurred: bool = True
    ) -> tuple[LatentBatch, Middle]:
        """Return the speech of ``batch`` and the spans of it to learn, as in the training of ARDiT."""
        speech, ardit = self.tts.latents(batch), self.config.tts.ardit
        middle = draw_middle(speech.latent_lens, ardit.block_size, ardit.infill_prob, generator)
        return self._blur(speech) if is_blurred else speech, middle

    def _blur(self, speech: LatentBatch) -> LatentBatch:
        max_std = self.config.tts.ardit.history_noise
        return replace(speech, latents=blur(speech.latents, max_std)) if self.training and max_std else speech

    def _noise(self, middle: Middle, generator: torch.Generator | None = None) -> Tensor:
        shape = (*middle.blocks.shape, self.config.tts.ardit.latent_dim)
        return torch.randn(shape, generator=generator, device=middle.blocks.device)
