"""One evaluation per block: three ways for an ARDiT to turn noise into latents in a single step.

The one-step generator is an ARDiT too, g(w) = w - v(w, 1), and runs as ``generate(..., num_steps=1)``. Like ARDiT's own
training, all losses treat every block of an utterance at once and give it the true latents before it.

- Regression: repeat, for the same noise, what a teacher reaches in many steps. It comes first.
- Distribution matching: lower the integral Kullback-Leibler divergence between the generator's samples and the
  teacher's. A third ARDiT, the fake one, learns the velocity of the samples meanwhile. All three begin as the teacher.
  The paper takes one step of each loss in turn; with two of the fake one for each of matching the student of our tests
  no longer swings about its goal.
- Energy score: needs no other network, and may start from nothing.

The paper weighs regression against matching by 2.0, at last 0.1, for blocks of 1, and by 1.0, at last 0.2, for blocks
of 4. Its regression loss is a sum over the channels, as is its matching loss; ours are both means.

Shapes: B utterances, M latents to generate, C latent channels.
Sources: Liu et al., "Autoregressive Diffusion Transformer for Text-to-Speech Synthesis", 2024, section 3; Luo et al.,
"Diff-Instruct", NeurIPS 2023 (integral Kullback-Leibler divergence); Yin et al., "One-step Diffusion with Distribution
Matching Distillation", CVPR 2024; Gneiting and Raftery, "Strictly Proper Scoring Rules, Prediction, and Estimation",
JASA 2007, section 4.3 (energy score).
"""

import torch
from torch import Tensor

from speechnar.data.latents import LatentBatch
from speechnar.decode.flow import euler, mix
from speechnar.models.ardit import Ardit, Middle, draw_times
from speechnar.models.base import LossOutput
from speechnar.nn.lengths import valid_mask, zero_padding

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
    """Return the mean squared error per channel between g(noise) and ``targets`` (B, M, C)."""
    samples = sample_blocks(student, speech, middle, noise, 1)
    return middle.mean((samples - targets).square().mean(-1))


def matching_loss(
    student: Ardit, speech: LatentBatch, middle: Middle, noise: Tensor, *, teacher: Ardit, fake: Ardit
) -> LossOutput:
    """Return a loss whose gradient at the samples x = g(noise) is twice v_teacher - v_fake at a noisy x.

    That is the gradient of the integral Kullback-Leibler divergence, weighted over time by 2 t / (1 - t): the score of
    a distribution is -((1 - t) v + x) / t. Its value, the mean square of that difference, tells how far the two are
    apart. Only ``student`` receives gradients; ``teacher`` and ``fake`` are best in evaluation mode.
    """
    samples = sample_blocks(student, speech, middle, noise, 1)
    with torch.no_grad():
        times = draw_times(middle)
        noisy, _ = mix(samples, torch.randn_like(samples), times)
        ahead = teacher.velocity(speech, middle, noisy, times) - fake.velocity(speech, middle, noisy, times)
        rest = ahead - samples
    return middle.mean((samples + rest).square().mean(-1))


def fake_loss(fake: Ardit, speech: LatentBatch, middle: Middle, noise: Tensor, *, student: Ardit) -> LossOutput:
    """Return the flow-matching loss of ``fake`` on the samples g(noise), without gradients for ``student``."""
    with torch.no_grad():
        samples = sample_blocks(student, speech, middle, noise, 1)
    return fake.flow_loss(speech, middle, samples)


def energy_loss(student: Ardit, speech: LatentBatch, middle: Middle, noise: Tensor, other_noise: Tensor) -> LossOutput:
    """Return the mean over blocks of |x - z| + |x' - z| - |x - x'|, least where samples are distributed like data.

    x and x' are the samples of a block, as one vector, from the two noises (B, M, C), and z is what is true; the weight
    is the number of blocks. Without the last term the best samples would be the median, all the same.
    """
    first, second = (sample_blocks(student, speech, middle, w, 1) for w in (noise, other_noise))
    truth = middle.take(speech.latents)
    pairs = ((first, truth), (second, truth), (first, second))
    to_first, to_second, apart = (_distances(x, y, middle) for x, y in pairs)
    num_blocks = middle.blocks.gather(1, middle.lens[:, None] - 1)[:, 0] + 1
    weight = num_blocks.sum()
    scores = zero_padding(to_first + to_second - apart, valid_mask(num_blocks, apart.size(1)))
    return LossOutput(total=scores.sum() / weight, weight=weight)


def _distances(x: Tensor, y: Tensor, middle: Middle) -> Tensor:
    """Return the Euclidean distance of each block, (B, the most blocks of any utterance)."""
    squares = zero_padding((x - y).square().sum(-1), middle.valid)
    sums = squares.new_zeros(len(squares), int(middle.blocks.max()) + 1).scatter_add(1, middle.blocks, squares)
    return (sums + SMALLEST_SQUARE).sqrt()
