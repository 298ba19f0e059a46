import pytest
import torch
from torch import nn

from speechnar.models.vocos import Vocos, VocosConfig
from speechnar.models.vocos_adversary import VocosAdversary, VocosAdversaryConfig
from tests.contracts import check_gradients_reach_all
from tests.unit.models.sounds import voices


def make_adversary() -> VocosAdversary:
    torch.manual_seed(0)
    return VocosAdversary(VocosAdversaryConfig.debug())


def make_sounds(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Return voices and noise, (4, 4001) each: no period divides that."""
    real = voices([4001] * 4, seed=seed).wav
    made = 0.1 * torch.randn(real.shape, generator=torch.Generator().manual_seed(seed))
    return real, made


def test_the_published_size_is_that_of_hifi_gan():
    adversary = VocosAdversary(VocosAdversaryConfig.published())
    assert [each.period for each in adversary.by_period] == [2, 3, 5, 7, 11]
    assert sum(p.numel() for p in adversary.by_period.parameters()) == pytest.approx(41.1e6, rel=0.005)


def test_losses_of_discriminators_that_cannot_decide():
    """Scores of 0 cost 1 for each side; what is the same in all layers costs nothing there."""
    adversary = make_adversary()
    for each in (*adversary.by_period, *adversary.by_resolution):
        nn.init.zeros_(each.score.bias)
        nn.init.zeros_(each.score.parametrizations.weight.original0)  # the length of the weights, not their direction
    real, made = make_sounds()
    loss = adversary.discriminator_loss(real, made)
    assert loss.parts["period"] == loss.parts["resolution"] == 2
    assert float(loss.total.detach()) == pytest.approx(2.2)
    assert float(loss.weight) == 4
    same = adversary.generator_loss(real, real)
    assert float(same.parts["adversarial"]) == pytest.approx(1.1)
    assert same.parts["features"] == 0
    assert adversary.generator_loss(real, made).parts["features"] > 0.01


def test_a_discriminator_of_a_period_sees_only_samples_that_far_apart():
    adversary = make_adversary()
    discriminator = adversary.by_period[1]
    assert discriminator.period == 5
    real, _ = make_sounds()
    changed = real[:, :4000].clone()
    changed[:, 3::5] += 0.5
    columns = [discriminator(wav).scores.unflatten(1, (-1, 5)) for wav in (real[:, :4000], changed)]
    moved = (columns[0] - columns[1]).abs().amax((0, 1))
    assert (moved > 1e-6).tolist() == [False, False, False, True, False]


def test_each_half_of_a_step_has_gradients_for_its_own_side_only():
    adversary, vocos = make_adversary(), Vocos(VocosConfig.debug())
    real = voices([4000] * 4).wav
    made = vocos.reconstruct(real)
    # The two hinges pull equally at the last bias until a score lies beyond one of them.
    biases = tuple(name for name, _ in adversary.named_parameters() if name.endswith("score.bias"))
    check_gradients_reach_all(adversary, adversary.discriminator_loss(real, made).total, except_for=biases)
    assert all(p.grad is None for p in vocos.parameters())
    adversary.zero_grad()
    check_gradients_reach_all(vocos, adversary.generator_loss(real, made).total)
    assert all(p.grad is None for p in adversary.parameters())
    assert all(p.requires_grad for p in adversary.parameters())


def test_every_discriminator_learns_to_tell_voices_from_rectified_ones():
    adversary = make_adversary()
    heard, unheard = (voices([2001] * 4, seed=seed).wav for seed in (0, 99))
    optimizer = torch.optim.AdamW(adversary.parameters(), lr=2e-3, betas=(0.8, 0.9))
    for _ in range(60):
        loss = adversary.discriminator_loss(heard, heard.abs())
        optimizer.zero_grad()
        loss.total.backward()
        optimizer.step()
    for discriminator in (*adversary.by_period, *adversary.by_resolution):
        # After as many steps at least 0.5 for each of six seeds; before, less than 0.001.
        assert discriminator(unheard).scores.mean() > discriminator(unheard.abs()).scores.mean() + 0.2


def test_a_vocoder_learns_against_them():
    """Alternating halves of a step, as a recipe takes them; the reconstruction goes on improving."""
    adversary, vocos = make_adversary(), Vocos(VocosConfig.debug())
    unheard = voices([4000] * 4, seed=99)
    before = vocos.eval().loss(unheard)
    made_before = vocos.reconstruct(unheard.wav)
    vocos.train()
    optimizers = [torch.optim.AdamW(side.parameters(), lr=2e-3, betas=(0.8, 0.9)) for side in (adversary, vocos)]
    for step in range(40):
        real = vocos.draw_segments(voices([4800] * 4, seed=step))
        made = vocos.reconstruct(real)
        optimizers[0].zero_grad()
        adversary.discriminator_loss(real, made).total.backward()
        optimizers[0].step()
        optimizers[1].zero_grad()
        (vocos.reconstruction_loss(real, made).total + adversary.generator_loss(real, made).total).backward()
        optimizers[1].step()
    vocos.eval()
    after = vocos.loss(unheard)
    assert float(after.parts["mel"].detach()) < 0.7 * float(before.parts["mel"].detach())
    # The discriminators, too, find what it makes now nearer to recordings than what it made at first.
    distances = [
        float(adversary.generator_loss(unheard.wav, made).parts["features"].detach())
        for made in (made_before, vocos.reconstruct(unheard.wav))
    ]
    assert distances[1] < distances[0]


def test_no_discriminators_are_refused():
    with pytest.raises(ValueError, match="periods"):
        VocosAdversaryConfig(periods=())
