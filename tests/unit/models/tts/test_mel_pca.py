import pytest
import torch

from speechnar.audio.fbank import LogMelConfig
from speechnar.errors import DataError
from speechnar.models.base import load_model, save_model
from speechnar.models.tts.mel_pca import MelPca, MelPcaConfig, stack
from speechnar.text.tokenizer import CharTokenizer
from tests.unit.models.sounds import voices

SIZES = [16000, 9000, 4321]


def fitted(config: MelPcaConfig) -> tuple[MelPca, float]:
    model = MelPca(config).eval()
    return model, model.fit([voices([16000] * 4, seed=1), voices(SIZES, seed=2, padding=torch.nan)])


def test_latents_are_as_many_as_published():
    config = MelPcaConfig.published()
    model = MelPca(config)
    assert 1 / model.latent_shift_s == pytest.approx(23.4, abs=0.05)
    assert config.frontend.num_mels == 100
    assert 1 / MelPca(MelPcaConfig()).latent_shift_s == 25
    _, lens = model.encode(torch.zeros(1, 24000), torch.tensor([24000]))
    assert lens.tolist() == [24000 // 256 // 4] == [23]


def test_frames_are_stacked_in_order_and_what_is_left_over_is_dropped():
    feats = torch.arange(2 * 7 * 3.0).view(2, 7, 3)
    stacks, lens = stack(feats, torch.tensor([7, 2]), 3)
    assert lens.tolist() == [2, 0]
    assert torch.equal(stacks, feats[:, :6].reshape(2, 2, 9))


def test_latents_of_the_fitted_data_are_white():
    model, _ = fitted(MelPcaConfig.debug())
    rows = []
    for batch in (voices([16000] * 4, seed=1), voices(SIZES, seed=2, padding=torch.nan)):
        latents, lens = model.encode(batch.wav, batch.wav_lens)
        rows += [row[:length] for row, length in zip(latents, lens.tolist(), strict=True)]
    latents = torch.cat(rows)
    torch.testing.assert_close(latents.mean(0), torch.zeros(4), atol=1e-3, rtol=0)
    torch.testing.assert_close(latents.T @ latents / len(latents), torch.eye(4), atol=1e-3, rtol=0)


def test_the_components_are_those_of_numpy():
    model, kept = fitted(MelPcaConfig.debug())
    rows = []
    for batch in (voices([16000] * 4, seed=1), voices(SIZES, seed=2)):
        feats, feat_lens = model.frontend(batch.wav, batch.wav_lens)
        for row, length in zip(feats, feat_lens.tolist(), strict=True):
            rows.append(row[: length // 4 * 4].reshape(-1, 4 * 80))
    data = torch.cat(rows).double()
    centred = data - data.mean(0)
    _, singular, directions = torch.linalg.svd(centred, full_matrices=False)
    variances = singular.square() / len(data)
    assert kept == pytest.approx(float(variances[:4].sum() / variances.sum()), abs=1e-6)
    torch.testing.assert_close(model.std.double(), variances[:4].sqrt(), atol=0, rtol=1e-4)
    agreement = (model.components.double() * directions[:4]).sum(1).abs()
    torch.testing.assert_close(agreement, torch.ones(4, dtype=torch.float64), atol=1e-4, rtol=0)
    assert (model.components.gather(1, model.components.abs().argmax(1, keepdim=True)) > 0).all()


def test_nothing_is_lost_but_the_components_left_out():
    model, _ = fitted(MelPcaConfig.debug())
    batch = voices([8000], seed=5)
    feats, _ = model.frontend(batch.wav, batch.wav_lens)
    latents, lens = model.encode(batch.wav, batch.wav_lens)
    decoded, decoded_lens = model.decode(latents, lens)
    assert decoded_lens.tolist() == [48]
    assert decoded.shape == (1, 48, 80)
    basis = model.components
    centred = feats[:, :48].reshape(12, 320) - model.mean
    torch.testing.assert_close(decoded.view(12, 320), centred @ basis.T @ basis + model.mean, atol=1e-4, rtol=1e-4)
    # What is left out is orthogonal to what is kept, so coding once more changes nothing.
    again = (decoded.view(12, 320) - model.mean) @ basis.T / model.std
    torch.testing.assert_close(again, latents[0], atol=1e-4, rtol=1e-4)


def test_all_components_give_the_log_mels_back():
    config = MelPcaConfig(frames_per_latent=2, latent_dim=160)
    model = MelPca(config)
    model.fit([voices([16000] * 8, seed=3)])
    batch = voices([8000], seed=3)
    feats, _ = model.frontend(batch.wav, batch.wav_lens)
    decoded, lens = model.decode(*model.encode(batch.wav, batch.wav_lens))
    assert int(lens) == feats.size(1) == 50
    torch.testing.assert_close(decoded, feats, atol=1e-2, rtol=0)


def test_latents_beat_the_mean_on_a_voice_that_was_not_fitted():
    model, kept = fitted(MelPcaConfig())
    assert kept > 0.8
    batch = voices([16000], seed=9)
    feats, _ = model.frontend(batch.wav, batch.wav_lens)
    decoded, _ = model.decode(*model.encode(batch.wav, batch.wav_lens))
    error = (decoded - feats).square().mean()
    assert error < 0.3 * (feats - model.mean.view(4, 80).mean(0)).square().mean()


def test_an_utterance_is_coded_the_same_in_any_batch():
    model, _ = fitted(MelPcaConfig.debug())
    batch = voices(SIZES, padding=torch.nan)
    latents, lens = model.encode(batch.wav, batch.wav_lens)
    noisy = latents.masked_fill((torch.arange(latents.size(1)) >= lens[:, None])[..., None], torch.nan)
    feats, feat_lens = model.decode(noisy, lens)
    for i, size in enumerate(SIZES):
        alone, alone_lens = model.encode(batch.wav[i : i + 1, :size], batch.wav_lens[i : i + 1])
        assert int(alone_lens) == int(lens[i])
        torch.testing.assert_close(latents[i, : lens[i]], alone[0], atol=1e-4, rtol=1e-4)
        decoded, _ = model.decode(alone, alone_lens)
        torch.testing.assert_close(feats[i, : feat_lens[i]], decoded[0], atol=1e-4, rtol=1e-4)
        assert not latents[i, lens[i] :].any()
        assert not feats[i, feat_lens[i] :].any()


def test_a_folder_holds_what_was_fitted(tmp_path):
    model, _ = fitted(MelPcaConfig.debug())
    save_model(tmp_path / "pca", model, CharTokenizer(("<blank>", "<unk>", "a")))
    loaded = load_model(tmp_path / "pca").model
    batch = voices([4000])
    torch.testing.assert_close(loaded.encode(batch.wav, batch.wav_lens)[0], model.encode(batch.wav, batch.wav_lens)[0])


def test_too_little_speech_is_refused():
    model = MelPca(MelPcaConfig.debug())
    with pytest.raises(DataError, match=r"4 components need as many directions in which .*, 2 stacks have 1; use more"):
        model.fit([voices([1280])])
    with pytest.raises(DataError, match="0 stacks have 0"):
        model.fit([])
    with pytest.raises(DataError, match="needs speech of 16000 samples per second, got 24000; resample it"):
        model.fit([voices([8000], sample_rate=24000)])


def test_impossible_settings_are_refused():
    with pytest.raises(ValueError, match="latent_dim must be at most the 320 values of a stack, got 321"):
        MelPcaConfig(latent_dim=321)
    with pytest.raises(ValueError, match="spectrum magnitude and padding same, got power and center"):
        MelPcaConfig(frontend=LogMelConfig())
