import dataclasses
import math

import pytest
import torch

from speechnar.errors import DataError, ShapeError
from speechnar.models.base import load_model, save_model
from speechnar.models.sound.encodec import (
    Balancer,
    Encodec,
    EncodecConfig,
    EncodecGan,
    EncodecGanConfig,
    MelDistance,
)
from speechnar.text.tokenizer import CharTokenizer
from speechnar.train.loop import TrainConfig, train
from tests.contracts import check_gradients_reach_all
from tests.unit.models.sounds import voice, voices

SIZES = [8000, 5000, 3333]


def make_model(**changes) -> Encodec:
    torch.manual_seed(0)
    return Encodec(EncodecConfig.debug().model_copy(update=changes)).eval()


def make_gan(*, decoder_only: bool = False) -> EncodecGan:
    torch.manual_seed(0)
    return EncodecGan(EncodecGanConfig.debug().model_copy(update={"decoder_only": decoder_only}))


def test_the_published_sizes():
    music = EncodecConfig.published()
    assert (music.hop_length, music.frame_rate) == (640, 50)
    assert (EncodecConfig.published_sound().hop_length, EncodecConfig.published_sound().frame_rate) == (320, 50)
    with torch.device("meta"):
        model = Encodec(music)
    # As audiocraft's own class counts them; the entries of the codebooks are buffers.
    assert sum(p.numel() for p in model.parameters()) == 56_884_674
    assert model.quantizer.layers[3].embed.shape == (2048, 128)


def test_the_small_ones():
    assert sum(p.numel() for p in make_model().parameters()) < 2e5
    model = Encodec(EncodecConfig())
    assert sum(p.numel() for p in model.parameters()) < 5e6
    assert (model.config.frame_rate, model.config.num_codebooks) == (50, 4)


@pytest.mark.parametrize("encoder", ["seanet", "mel"])
@torch.no_grad()
def test_an_utterance_sounds_the_same_in_any_batch(encoder):
    model = make_model(encoder=encoder)
    batch = voices(SIZES, padding=torch.nan)
    codes, lens = model.encode(batch.wav, batch.wav_lens)
    assert codes.shape == (3, 4, 25)
    assert lens.tolist() == [25, 16, 11]
    wav, wav_lens = model.decode(codes, lens)
    assert wav_lens.tolist() == [25 * 320, 16 * 320, 11 * 320]
    for i, size in enumerate(SIZES):
        alone, _ = model.encode(batch.wav[i : i + 1, :size])
        assert torch.equal(codes[i, :, : lens[i]], alone[0])
        assert not codes[i, :, lens[i] :].any()
        back, _ = model.decode(alone)
        torch.testing.assert_close(wav[i, : wav_lens[i]], back[0], atol=1e-5, rtol=1e-4)
        assert not wav[i, wav_lens[i] :].any()


@torch.no_grad()
def test_spectra_tell_no_phases():
    """A tone that is shifted within its period has other samples and, away from the ends, the same latents."""
    time = torch.arange(8000) / 16000
    tones = torch.stack([torch.sin(2 * torch.pi * 440 * time + phase) for phase in (0.0, 1.0, 2.5)])
    spreads = {}
    for encoder in ("mel", "seanet"):
        latents, _ = make_model(encoder=encoder).encoder(tones)
        inner = latents[:, 6:-6]
        spreads[encoder] = float((inner[1:] - inner[:1]).square().mean() / inner.var())
    assert spreads["mel"] < 0.02, spreads
    assert spreads["seanet"] > 0.5, spreads


def test_codes_have_a_shape():
    with pytest.raises(ShapeError, match=r"codes must be \(B, 4, T\), got \(1, 3, 5\)"):
        make_model().decode(torch.zeros(1, 3, 5, dtype=torch.int64))


def test_half_as_loud_is_log_2_away():
    distance = MelDistance(16000, EncodecConfig().mel_sizes, 64)
    wav = voice(8000, pitch_hz=120, formant_hz=500)[None]
    assert float(distance(wav, wav)) == 0
    half = float(distance(wav, 0.5 * wav))
    assert half == pytest.approx(math.log(2), abs=0.1)  # and the small difference of the magnitudes themselves
    assert float(distance(wav, torch.zeros_like(wav))) > 3 * half


def test_the_weights_of_the_losses():
    batch = voices(SIZES)
    loss = make_model(wav_weight=3.0, mel_weight=2.0, commitment_weight=5.0).loss(batch)
    parts = {name: float(part.detach()) for name, part in loss.parts.items()}
    assert list(parts) == ["wav", "mel", "commitment", "perplexity"]
    assert 1 <= parts["perplexity"] <= 16
    expected = 3 * parts["wav"] + 2 * parts["mel"] + 5 * parts["commitment"]
    assert float(loss.total.detach()) == pytest.approx(expected)
    assert float(loss.weight) == 3


def test_another_rate_is_refused():
    with pytest.raises(DataError, match="needs sound of 16000 samples per second, got 8000"):
        make_model().loss(dataclasses.replace(voices(SIZES), sample_rate=8000))


def test_the_same_batch_has_the_same_loss_in_evaluation_mode():
    model, batch = make_model(), voices(SIZES)
    torch.manual_seed(1)
    first = model.loss(batch)
    torch.manual_seed(2)
    assert torch.equal(model.loss(batch).total, first.total)


def test_gradients_reach_every_parameter():
    model = make_model(lstm_layers=1).train()
    check_gradients_reach_all(model, model.loss(voices(SIZES, padding=torch.nan)).total)


def test_silence_has_a_loss_and_a_gradient():
    model = make_model().train()
    loss = model.loss(dataclasses.replace(voices([5000]), wav=torch.zeros(1, 5000)))
    loss.total.backward()
    assert loss.total.isfinite()
    assert all(p.grad.isfinite().all() for p in model.parameters())


def test_a_folder_holds_the_model(tmp_path):
    model = make_model().train()
    model.loss(voices(SIZES))
    save_model(tmp_path / "codec", model, CharTokenizer(("<blank>", "<unk>", "a")))
    loaded = load_model(tmp_path / "codec").model
    wav = voice(3200, pitch_hz=100, formant_hz=500)[None]
    codes, _ = model.eval().encode(wav)
    assert torch.equal(loaded.encode(wav)[0], codes)
    assert torch.equal(loaded.decode(codes)[0], model.decode(codes)[0])


def test_nothing_is_quantised_at_first():
    model = make_model(warmup_steps=2).train()
    batch = voices(SIZES)
    for _ in range(2):
        assert float(model.loss(batch).parts["commitment"].detach()) == 0
        assert not model.quantizer.layers[0].inited
    assert float(model.loss(batch).parts["commitment"].detach()) > 0
    assert model.quantizer.layers[0].inited
    assert float(model.quantizer.steps) == 2


# Balance


def test_losses_pull_by_their_shares_and_not_by_their_size():
    balancer = Balancer({"a": 1.0, "b": 3.0})
    output = torch.zeros(2, 50, requires_grad=True)
    direction = torch.randn(2, 2, 50)
    direction /= direction.norm(dim=2, keepdim=True)
    losses = {"a": 1000 * (output * direction[0]).sum(), "b": 0.001 * (output * direction[1]).sum()}
    total = balancer(losses, output)
    total.backward()
    torch.testing.assert_close(output.grad, 0.25 * direction[0] + 0.75 * direction[1], atol=1e-5, rtol=1e-4)
    assert float(total.detach()) == 0
    one = {"a": (output + 1).mean(), "b": (output + 2).mean()}
    assert float(balancer(one, output).detach()) == pytest.approx(1 + 3 * 2)
    output.grad = None
    balancer.eval()(one, output).backward()
    torch.testing.assert_close(output.grad, torch.full((2, 50), 4 / 100))


def test_a_gradient_that_is_not_finite_leaves_the_balance_as_it_was():
    balancer = Balancer({"a": 1.0})
    output = torch.ones(1, 4, requires_grad=True)
    balancer({"a": output.sum()}, output)
    before = balancer.norms.clone()
    balancer({"a": (output * torch.nan).sum()}, output)
    assert torch.equal(balancer.norms, before)
    assert float(balancer.updates) == 1


# Learning


def test_each_turn_moves_its_own_side():
    model = make_gan().train()
    batch = voices([6000] * 3)
    assert [turn.prefix for turn in model.turns()] == ["adversary.", "encodec."]
    model.discriminator_loss(batch).total.backward()
    assert all(p.grad is not None for p in model.adversary.parameters())
    assert all(p.grad is None for p in model.encodec.parameters())
    codebook = model.encodec.quantizer.layers[0].embed
    before = codebook.clone()
    model.zero_grad(set_to_none=True)
    loss = model.generator_loss(batch)
    assert set(loss.parts) == {"wav", "mel", "adversarial", "features", "commitment"}
    check_gradients_reach_all(model.encodec, loss.total)
    assert all(p.grad is None for p in model.adversary.parameters())
    assert not torch.equal(codebook, before)


def test_a_decoder_may_learn_alone():
    """The codes that generators have learned stay, in training mode, too."""
    model = make_gan(decoder_only=True).train()
    model.encodec.loss(voices([6000] * 3))  # the codebooks begin
    batch = voices([6000] * 3, seed=1)
    codebooks = {name: value.clone() for name, value in model.encodec.quantizer.state_dict().items()}
    (_, turn) = model.turns()
    assert turn.prefix == "encodec.decoder."
    loss = turn.loss(batch)
    assert set(loss.parts) == {"wav", "mel", "adversarial", "features", "commitment"}
    assert float(loss.parts["commitment"]) == 0
    check_gradients_reach_all(model.encodec.decoder, loss.total)
    assert all(p.grad is None for p in model.encodec.encoder.parameters())
    for name, value in model.encodec.quantizer.state_dict().items():
        assert torch.equal(value, codebooks[name]), name


class Batches:
    """A few batches as training data, always the same."""

    def batches(self, epoch):
        return iter([voices([6000] * 3, seed=seed) for seed in range(2)])

    def state_dict(self):
        return {}

    def load_state_dict(self, state):
        pass


def test_the_training_loop_takes_it(tmp_path):
    config = TrainConfig(max_steps=3, validate_every=3, device="cpu", precision="bf16", ema_decay=0.9, select="newest")
    model = make_gan()
    result = train(model, Batches(), Batches(), config, tmp_path)
    assert result.step == 3
    assert result.nan_steps == 0
    assert float(model.balancer.updates) == 3


def sounds(count: int, seed: int) -> torch.Tensor:
    """Return (count, 3840): low tones, high tones and noise, each coming and going."""
    generator = torch.Generator().manual_seed(seed)
    time = torch.arange(3840)
    kinds = torch.randint(3, (count, 1), generator=generator)
    phases = 6 * torch.rand(count, 1, generator=generator)
    rates = torch.tensor([400.0, 3000.0, 0.0])[kinds]
    tones = 0.3 * torch.sin(2 * torch.pi * rates * time / 16000 + phases)
    noise = 0.1 * torch.randn(count, 3840, generator=generator)
    is_on = (time // 1000 + torch.randint(2, (count, 1), generator=generator)) % 2
    return torch.where(kinds == 2, noise, tones) * is_on + 0.01 * noise


@pytest.mark.slow
def test_it_learns_to_code_sounds():
    torch.manual_seed(0)
    sizes = {"num_filters": 8, "latent_dim": 16, "codebook_size": 32, "warmup_steps": 50, "segment_frames": 12}
    model = Encodec(EncodecConfig(**sizes)).train()
    unheard = sounds(16, seed=99)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, betas=(0.8, 0.99))
    for step in range(100):
        real = sounds(8, seed=step)
        made, quantized = model.reconstruct(real)
        loss = sum(model.distances(real, made).values()) + 0.25 * quantized.commitment
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.eval()
    with torch.no_grad():
        codes, _ = model.encode(unheard)
        made, _ = model.decode(codes)
        found = float(model.mel_distance(unheard, made))
        others = float(model.mel_distance(unheard, made.roll(1, 0)))
        left, errors = model.encoder(unheard)[0], []
        for layer in model.quantizer.layers:
            left = left - layer.embed[layer.nearest(left)]
            errors.append(float(left.square().mean()))
    assert found < 0.75 * others  # it is these sounds that it codes
    assert all(len(codes[:, k].unique()) > 16 for k in range(4))
    assert errors == sorted(errors, reverse=True)  # each codebook codes what those before it leave
