import dataclasses
import math

import pytest
import torch
from torch import nn

from speechnar.audio.fbank import LogMelConfig
from speechnar.audio.stft import inverse_stft, stft
from speechnar.models.base import load_model, save_model
from speechnar.models.tts.vocos import Vocos, VocosConfig, magnitude_loss, stft_loss
from speechnar.nn.lengths import valid_mask
from speechnar.text.tokenizer import CharTokenizer
from tests.contracts import check_gradients_reach_all
from tests.unit.models.sounds import voice, voices

SIZES = [8000, 5000, 3333]


def make_model(**changes) -> Vocos:
    torch.manual_seed(0)
    return Vocos(VocosConfig.debug().model_copy(update=changes)).eval()


def test_the_published_size_is_that_of_the_paper():
    config = VocosConfig.published()
    model = Vocos(config)
    assert sum(p.numel() for p in model.parameters()) == pytest.approx(13.5e6, rel=0.005)
    assert config.segment_frames * config.frontend.hop_length == 16384
    feats, feat_lens = model.frontend(torch.zeros(1, 24000), torch.tensor([24000]))
    assert feats.shape == (1, 93, 100)
    wav, lens = model(feats, feat_lens)
    assert wav.shape == (1, 93 * 256)
    assert lens.tolist() == [93 * 256]


def test_the_small_ones():
    assert sum(p.numel() for p in make_model().parameters()) < 1e6
    assert 3e6 < sum(p.numel() for p in Vocos(VocosConfig()).parameters()) < 4e6


@torch.no_grad()
def test_an_utterance_sounds_the_same_in_any_batch():
    model = make_model()
    batch = voices(SIZES, padding=torch.nan)
    feats, feat_lens = model.frontend(batch.wav, batch.wav_lens)
    padding = ~valid_mask(feat_lens, feats.size(1))[..., None]
    wav, lens = model(feats.masked_fill(padding, torch.nan), feat_lens)
    assert lens.tolist() == [8000, 31 * 160, 20 * 160]
    for i in range(3):
        alone, _ = model(feats[i : i + 1, : feat_lens[i]], feat_lens[i : i + 1])
        torch.testing.assert_close(wav[i, : lens[i]], alone[0], atol=1e-5, rtol=1e-4)
        assert not wav[i, lens[i] :].any()


@torch.no_grad()
def test_the_head_is_a_spectrum_in_polar_form():
    """With a head that ignores its input, every frame has the same known spectrum."""
    model = make_model()
    nn.init.zeros_(model.head.weight)
    model.head.bias.fill_(-60.0)
    bins = model.head.out_features // 2
    model.head.bias[bins:] = 0.0
    model.head.bias[64] = math.log(80.0)  # of 640 samples at 16 kHz: 1600 Hz, ten samples, sixteen of them in a hop
    wav, _ = model(torch.zeros(1, 20, 80), torch.tensor([20]))
    middle = wav[0, 800:2400]
    # Each frame adds 2 * 80 / 640 cos(2 pi n / 10), n from its first sample on; Hann windows at a quarter of their
    # length sum to 2 and their squares to 1.5.
    n = torch.arange(800, 2400) + 240
    torch.testing.assert_close(middle, 2 / 1.5 * 0.25 * torch.cos(2 * torch.pi * n / 10), atol=1e-4, rtol=0)
    model.head.bias[64] = 500.0  # would overflow
    assert model(torch.zeros(1, 20, 80), torch.tensor([20]))[0].isfinite().all()


def test_no_frames_are_no_samples():
    wav, lens = make_model()(torch.zeros(1, 0, 80), torch.tensor([0]))
    assert wav.shape == (1, 0)
    assert lens.tolist() == [0]


# Losses


def test_pieces_lie_within_their_utterances():
    model = make_model()
    batch = voices([6000] * 300 + [2000] * 2, padding=torch.nan)
    ramp = torch.arange(6000.0).expand(302, -1)
    batch = dataclasses.replace(batch, wav=torch.where(batch.wav.isnan(), torch.nan, ramp + 1))
    pieces = model.draw_segments(batch, torch.Generator().manual_seed(0))
    assert pieces.shape == (302, 4000)
    starts = pieces[:300, 0] - 1
    assert torch.equal(pieces[:300], starts[:, None] + 1 + torch.arange(4000))
    assert starts.min() < 60
    assert starts.max() > 1940
    assert starts.max() <= 2000
    assert torch.equal(pieces[300, :2000], ramp[0, :2000] + 1)
    assert not pieces[300, 2000:].any()


def test_the_loss_on_spectra_in_closed_form():
    """Half as loud: half of the norm is missing, and the logarithms differ by log 2 where nothing is cut off."""
    wav = torch.randn(2, 4000, generator=torch.Generator().manual_seed(0))
    assert float(stft_loss(wav, wav)) == 0
    assert float(stft_loss(wav, 0.5 * wav)) == pytest.approx(0.5 + math.log(2), abs=1e-3)


def test_the_weights_of_the_losses():
    real, made = voice(4000, pitch_hz=120, formant_hz=500)[None], voice(4000, pitch_hz=150, formant_hz=800)[None]
    both = make_model(mel_weight=45.0, stft_weight=2.0).reconstruction_loss(real, made)
    assert float(both.total) == pytest.approx(45 * float(both.parts["mel"]) + 2 * float(both.parts["stft"]))
    only_mel = make_model(stft_weight=0.0).reconstruction_loss(real, made)
    assert list(only_mel.parts) == ["mel"]
    assert float(make_model().reconstruction_loss(real, real).total) == 0
    model = make_model()
    feats = [model.frontend(wav, torch.tensor([4000]))[0] for wav in (real, made)]
    assert float(both.parts["mel"]) == pytest.approx(float((feats[0] - feats[1]).abs().mean()))


def test_the_loss_of_magnitudes_in_closed_form():
    """Half of them: half of the norm is missing, and the logarithms differ by log 2 where nothing is quiet."""
    spectrum = torch.randn(2, 33, 20, dtype=torch.complex64, generator=torch.Generator().manual_seed(0)) * 100
    assert float(magnitude_loss(spectrum, spectrum * 1j)) == pytest.approx(0, abs=1e-5)
    assert float(magnitude_loss(spectrum, 0.5 * spectrum)) == pytest.approx(0.5 + math.log(2), abs=1e-3)


def test_a_model_may_learn_magnitudes_alone_or_beside_the_rest():
    batch = voices(SIZES)
    alone = make_model(mel_weight=0.0, stft_weight=0.0, magnitude_weight=2.0).train()
    loss = alone.loss(batch)
    assert list(loss.parts) == ["magnitude"]
    loss.total.backward()
    assert float(loss.total.detach()) == pytest.approx(2 * float(loss.parts["magnitude"].detach()))
    bins = alone.config.frontend.win_length // 2 + 1
    gradient = alone.head.weight.grad
    assert gradient is not None
    assert gradient[bins:].abs().max() < 1e-6 * gradient[:bins].abs().max(), "of phases nothing is learned"
    with torch.no_grad():
        both, rest = make_model(magnitude_weight=2.0).loss(batch), make_model().loss(batch)
    assert both.parts.keys() == {*rest.parts, "magnitude"}
    assert float(both.total) == pytest.approx(float(rest.total) + 2 * float(both.parts["magnitude"]), rel=1e-4)
    with pytest.raises(ValueError, match="one of mel_weight, stft_weight and magnitude_weight must be above 0"):
        VocosConfig(mel_weight=0.0, stft_weight=0.0)


@torch.no_grad()
def test_phases_are_found_outside_of_training_only():
    model = make_model(phase_iterations=4)
    feats, lens = torch.randn(1, 30, 80), torch.tensor([30])
    spectrum = model.find_spectrum(feats, lens)
    own = inverse_stft(spectrum, lens, model.window, 160)
    torch.testing.assert_close(model.train()(feats, lens)[0], own)
    found = model.eval()(feats, lens)[0]

    def missing(wav: torch.Tensor) -> float:
        return float((stft(wav, model.window, 160).abs() - spectrum.abs()).norm())

    assert missing(found) < missing(own)


def test_the_same_batch_has_the_same_loss_in_evaluation_mode():
    model, batch = make_model(), voices(SIZES)
    torch.manual_seed(1)
    first = model.loss(batch)
    torch.manual_seed(2)
    assert torch.equal(model.loss(batch).total, first.total)
    assert float(first.weight) == 3


def test_gradients_reach_every_parameter():
    model = make_model().train()
    check_gradients_reach_all(model, model.loss(voices(SIZES, padding=torch.nan)).total)


def test_silence_has_a_loss_and_a_gradient():
    model = make_model().train()
    batch = dataclasses.replace(voices([5000]), wav=torch.zeros(1, 5000))
    loss = model.loss(batch)
    loss.total.backward()
    assert loss.total.isfinite()
    assert all(p.grad.isfinite().all() for p in model.parameters())


def test_impossible_settings_are_refused():
    with pytest.raises(ValueError, match="spectrum magnitude and padding same, got power and center"):
        VocosConfig(frontend=LogMelConfig())
    with pytest.raises(ValueError, match="even win_length of two hops at least, got 300 and 160"):
        VocosConfig(frontend=LogMelConfig.for_vocoder(16000).model_copy(update={"win_length": 300}))
    with pytest.raises(ValueError, match="segment_frames must make 1024 samples at least, got 960"):
        VocosConfig(segment_frames=6)


def test_a_folder_holds_the_model(tmp_path):
    model = make_model()
    save_model(tmp_path / "vocoder", model, CharTokenizer(("<blank>", "<unk>", "a")))
    loaded = load_model(tmp_path / "vocoder").model
    feats = torch.randn(1, 9, 80)
    assert torch.equal(loaded(feats, torch.tensor([9]))[0], model(feats, torch.tensor([9]))[0])


# Learning


def with_zero_phases(feats, frontend):
    config = frontend.config
    magnitudes = (torch.linalg.pinv(frontend.mel_matrix.T) @ feats.exp().mT).clamp(min=1e-8)
    # Frames are centred on the middle of their hop, those of istft on its first sample.
    padded = torch.nn.functional.pad(magnitudes, (1, 1), mode="replicate").to(torch.complex64)
    wav = torch.istft(padded, config.n_fft, config.hop_length, config.win_length, frontend.window)
    first = config.hop_length // 2
    return wav[:, first : first + feats.size(1) * config.hop_length]


@pytest.mark.slow
def test_it_learns_to_make_voices_it_has_not_heard():
    torch.manual_seed(0)
    model = Vocos(VocosConfig.debug())
    unheard = voices([4000] * 4, seed=99)
    before = model.eval().loss(unheard)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, betas=(0.8, 0.9))
    model.train()
    for step in range(100):
        loss = model.loss(voices([4800] * 4, seed=step))
        optimizer.zero_grad()
        loss.total.backward()
        optimizer.step()
    model.eval()
    after = model.loss(unheard)
    assert float(after.total.detach()) < 0.5 * float(before.total.detach())
    # Better than the same magnitudes with all phases 0, and far better than silence.
    feats, feat_lens = model.frontend(unheard.wav, unheard.wav_lens)
    assert feat_lens.tolist() == [feats.size(1)] * len(feats)
    buzz = with_zero_phases(feats, model.frontend)
    distance = {
        name: float(model.reconstruction_loss(unheard.wav, made).parts["mel"].detach())
        for name, made in {
            "vocos": model.reconstruct(unheard.wav),
            "zero phases": buzz,
            "silence": torch.zeros_like(unheard.wav),
        }.items()
    }
    assert distance["vocos"] < 0.8 * distance["zero phases"]
    assert distance["vocos"] < 0.2 * distance["silence"]
