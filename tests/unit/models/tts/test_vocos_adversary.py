import pytest
import soundfile
import torch
from torch import nn

from speechnar.config import parse_config
from speechnar.data.kaldi import Utterance, write_kaldi_dir
from speechnar.models.base import load_model, save_model
from speechnar.models.tts.vocos import Vocos, VocosConfig
from speechnar.models.tts.vocos_adversary import VocosAdversary, VocosAdversaryConfig, VocosGan, VocosGanConfig
from speechnar.text.tokenizer import CharTokenizer
from speechnar.train.checkpoint import find_best, load_checkpoint
from speechnar.train.run import RunConfig, run_training
from tests.contracts import check_gradients_reach_all
from tests.unit.models.sounds import voices

TOKENIZER = CharTokenizer(("<blank>", "<unk>", "a"))


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


@pytest.mark.slow
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


def test_turns_have_the_losses_of_both_sides_and_gradients_for_their_own_only():
    torch.manual_seed(0)
    gan = VocosGan(VocosGanConfig.debug())
    batch = voices([4000] * 4)  # one piece: whatever is drawn, it is that
    wav, lens = batch.wav, batch.wav_lens
    assert gan.vocos.draw_segments(batch).shape == wav.shape
    discriminator, generator = gan.turns()
    loss = discriminator.loss(batch)
    biases = tuple(name for name, _ in gan.adversary.named_parameters() if name.endswith("score.bias"))
    check_gradients_reach_all(gan.adversary, loss.total, except_for=biases)
    assert all(p.grad is None for p in gan.vocos.parameters())
    gan.zero_grad()
    made, _ = gan.vocos(*gan.vocos.frontend(wav, lens))
    torch.testing.assert_close(loss.total, gan.adversary.discriminator_loss(wav, made).total)
    loss = generator.loss(batch)
    check_gradients_reach_all(gan.vocos, loss.total)
    assert all(p.grad is None for p in gan.adversary.parameters())
    told, near = gan.adversary.generator_loss(wav, made), gan.vocos.reconstruction_loss(wav, made)
    torch.testing.assert_close(loss.total, near.total + told.total)
    assert loss.parts.keys() == {"mel", "stft", "adversarial", "features"}
    # Without being told apart nothing but the reconstruction counts, as for held-out speech.
    torch.testing.assert_close(gan.loss(batch).total, near.total)


@pytest.mark.slow
def test_a_vocoder_trained_against_them_is_kept_alone(tmp_path):
    """From a folder of a vocoder to a folder of a vocoder, by the training of any model."""
    corpus = save_corpus(tmp_path / "corpus")
    torch.manual_seed(3)
    start = Vocos(VocosConfig.debug())
    save_model(tmp_path / "start", start, TOKENIZER)
    values = {
        "model": VocosGanConfig.debug().model_dump(mode="json"),
        "data": {"train": str(corpus / "train"), "dev": str(corpus / "dev"), "batch_seconds": 3.0},
        "train": {
            "optim": {"lr": 2e-3, "betas": [0.8, 0.9], "schedule": {"kind": "inv_sqrt", "warmup_steps": 5}},
            "max_steps": 24,
            "device": "cpu",
            "log_every": 6,
            "validate_every": 12,
            "ema_decay": 0.8,
            "select": "newest",
        },
        "tokenizer": str(corpus / "tokens"),
        "init_from": str(tmp_path / "start"),
        "average": 1,
    }
    result = run_training(parse_config(values, RunConfig), tmp_path / "run")
    assert result.nan_steps == 0
    assert result.best_step == 24
    trained = [entry["parts"] for entry in result.history if entry["kind"] == "train"]
    assert trained[-1]["generator/mel"] < trained[0]["generator/mel"]
    assert trained[-1]["discriminator/period"] != trained[0]["discriminator/period"]
    loaded = load_model(tmp_path / "run/model").model
    assert isinstance(loaded, Vocos)
    assert loaded.config == VocosConfig.debug()
    held_out = voices([8000] * 3, seed=99)
    assert float(loaded.loss(held_out).total.detach()) < 0.9 * float(start.eval().loss(held_out).total.detach())
    kept = load_checkpoint(find_best(tmp_path / "run")[0])["model"]
    assert all(torch.equal(kept[f"vocos.{name}"], weight) for name, weight in loaded.state_dict().items())


def save_corpus(folder):
    folder.mkdir()
    batch = voices([8000, 7000, 6000] * 4)
    utterances = []
    for i, (wav, length) in enumerate(zip(batch.wav, batch.wav_lens.tolist(), strict=True)):
        path = folder / f"voice{i:02d}.wav"
        soundfile.write(path, wav[:length].numpy(), 16000)
        utterances.append(Utterance(path.stem, path, "a", path.stem, length / 16000))
    write_kaldi_dir(folder / "train", utterances[:9])
    write_kaldi_dir(folder / "dev", utterances[9:])
    TOKENIZER.save(folder / "tokens")
    return folder


def test_no_discriminators_are_refused():
    with pytest.raises(ValueError, match="periods"):
        VocosAdversaryConfig(periods=())
