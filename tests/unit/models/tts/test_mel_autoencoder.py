import dataclasses

import pytest
import torch
from torch import nn

from speechnar.audio.cmvn import compute_cmvn
from speechnar.audio.fbank import LogMelConfig
from speechnar.errors import ConfigError, ShapeError
from speechnar.models.base import load_model, save_model
from speechnar.models.tts.mel_autoencoder import KnownFrames, MelAutoencoder, MelAutoencoderConfig, draw_known
from speechnar.nn.lengths import valid_mask
from speechnar.text.tokenizer import CharTokenizer
from speechnar.train.run import fit_normalizer
from tests.contracts import check_gradients_reach_all
from tests.unit.models.sounds import voices

SIZES = [8000, 5000, 3333]


def make_model(*, is_new: bool = False, **changes) -> MelAutoencoder:
    torch.manual_seed(0)
    model = MelAutoencoder(MelAutoencoderConfig.debug().model_copy(update=changes)).eval()
    for parameter in () if is_new else model.parameters():
        if not parameter.any():  # what adaLN-Zero begins with: layers that do nothing
            nn.init.normal_(parameter, std=0.3)
    batch = voices([16000] * 4, seed=1)
    mean, std = compute_cmvn([model.frontend(batch.wav, batch.wav_lens)])
    model.normalizer.mean.copy_(torch.as_tensor(mean))
    model.normalizer.std.copy_(torch.as_tensor(std))
    return model


# Sizes


def test_the_published_size_is_that_of_the_paper():
    config = MelAutoencoderConfig.published()
    with torch.device("meta"):
        model = MelAutoencoder(config)
    for trunk in (model.encoder.trunk.transformer, model.decoder.trunk.transformer):
        weights = sum(p.numel() for p in trunk.layers.parameters())
        assert weights == pytest.approx(226e6, rel=0.005)
    assert (config.frontend.sample_rate, config.frontend.num_mels, config.latent_dim) == (24000, 100, 16)
    assert 1 / model.latent_shift_s == pytest.approx(23.4, abs=0.05)
    sizes = [tuple(conv.weight.shape[:2]) for conv in model.decoder.convs]
    assert sizes == [(128, 5), (128, 128), (128, 128), (128, 128), (128, 128), (1, 128)]


def test_the_small_ones():
    assert 1 / MelAutoencoder(MelAutoencoderConfig()).latent_shift_s == 25
    assert sum(p.numel() for p in make_model().parameters()) < 1e6


# The loss


def test_the_balance_of_the_two_losses_is_the_published_one():
    """Per mean over channels and mel values, 0.035 of the sums is 0.0014 (16 channels against 4 frames of 100)."""
    config = MelAutoencoderConfig.debug().model_copy(
        update={"latent_dim": 16, "frontend": LogMelConfig.for_vocoder(24000)}
    )
    torch.manual_seed(0)
    loss = MelAutoencoder(config).eval().loss(voices([24000], sample_rate=24000))
    assert loss.parts["kl"] > 0.1
    share = (loss.total - loss.parts["mse"]) / (loss.parts["kl"] / 16)
    assert float(share.detach()) == pytest.approx(0.0014, rel=0.01)


def test_a_new_model_predicts_no_velocity_so_its_error_is_that_of_the_targets():
    """The target w - y has variance 2 where the log-mels are normalised."""
    model = make_model(is_new=True)
    loss = model.loss(voices([16000] * 4, seed=1))
    assert float(loss.parts["mse"].detach()) == pytest.approx(2.0, abs=0.1)
    assert float(loss.weight) == 4 * 100


def test_the_divergence_is_that_of_torch():
    model = make_model()
    batch = voices(SIZES, padding=torch.nan)
    mean, log_std, lens = model._posterior(batch.wav, batch.wav_lens)
    expected = torch.distributions.kl_divergence(
        torch.distributions.Normal(mean, log_std.exp()), torch.distributions.Normal(0.0, 1.0)
    ).sum(-1)[valid_mask(lens, mean.size(1))]
    torch.testing.assert_close(model.loss(batch).parts["kl"], expected.mean())


@pytest.mark.parametrize("context_prob", [0.0, 1.0])
def test_gradients_reach_every_parameter(context_prob):
    model = make_model(context_prob=context_prob).train()
    check_gradients_reach_all(model, model.loss(voices(SIZES, padding=torch.nan)).total)


def test_padding_does_not_change_the_loss():
    model = make_model(context_prob=1.0)
    batch = voices([6400, 6400])
    longer = dataclasses.replace(batch, wav=torch.cat([batch.wav, torch.full((2, 200), torch.nan)], 1))
    assert longer.wav.size(1) // 160 == 41  # one more frame, too few for a latent
    torch.testing.assert_close(model.loss(longer).total, model.loss(batch).total)


def test_half_of_the_frames_are_known_and_the_others_are_one_stretch():
    feat_lens = torch.tensor([8, 13] * 500)
    known = draw_known(feat_lens, 16, torch.Generator().manual_seed(0))
    assert known[0::2].sum(1).eq(4).all()
    assert known[1::2].sum(1).eq(6).all()
    assert not known[1::2, 13:].any()
    for row, length in zip(known, feat_lens.tolist(), strict=True):
        inside = row[:length]
        assert int((inside != inside.roll(1)).sum()) == 2
    assert set(map(tuple, known[0::2, :8].int().tolist())) == {
        tuple(torch.tensor([0, 0, 0, 0, 1, 1, 1, 1]).roll(shift).tolist()) for shift in range(8)
    }


def test_only_unknown_frames_are_learned():
    model = make_model(is_new=True, context_prob=1.0)
    loss = model.loss(voices([8000] * 4))
    assert float(loss.weight) == 4 * 24  # 48 frames each
    seen = []
    model.decoder.register_forward_pre_hook(lambda _, args: seen.append(args))
    model.loss(voices([8000] * 4))
    noisy, times, _, _ = seen[0]
    feats, _, _ = model._features(voices([8000] * 4).wav, torch.tensor([8000] * 4))
    assert (times == 0).sum(1).eq(24).all()
    assert torch.equal(noisy[times == 0], feats[times == 0])  # known frames are given clean
    assert (noisy[times > 0] - feats[times > 0]).abs().amax(-1).min() > 1e-3


# Coding


def test_lengths():
    model = make_model()
    batch = voices(SIZES)
    latents, lens = model.encode(batch.wav, batch.wav_lens)
    assert lens.tolist() == [50 // 4, 31 // 4, 20 // 4]
    assert latents.shape == (3, 12, 4)
    feats, feat_lens = model.decode(latents, lens, num_steps=1)
    assert feat_lens.tolist() == [48, 28, 20]
    assert feats.shape == (3, 48, 80)


def test_an_utterance_is_coded_the_same_in_any_batch():
    model = make_model()
    batch = voices(SIZES, padding=torch.nan)
    latents, lens = model.encode(batch.wav, batch.wav_lens)
    padded = latents.masked_fill(~valid_mask(lens, latents.size(1))[..., None], torch.nan)
    feats, feat_lens = model.decode(padded, lens, num_steps=3)
    for i, size in enumerate(SIZES):
        alone, alone_lens = model.encode(batch.wav[i : i + 1, :size], batch.wav_lens[i : i + 1])
        torch.testing.assert_close(latents[i, : lens[i]], alone[0], atol=1e-4, rtol=1e-3)
        decoded, _ = model.decode(alone, alone_lens, num_steps=3)
        torch.testing.assert_close(feats[i, : feat_lens[i]], decoded[0], atol=2e-3, rtol=1e-3)
        assert not latents[i, lens[i] :].any()
        assert not feats[i, feat_lens[i] :].any()


def test_the_encoder_and_the_decoder_see_the_whole_utterance():
    model = make_model()
    batch = voices([8000])
    latents, lens = model.encode(batch.wav, batch.wav_lens)
    other = batch.wav.clone()
    other[:, :1000] *= 0.3
    assert (model.encode(other, batch.wav_lens)[0] - latents)[:, -1].abs().max() > 1e-3
    changed = latents.clone()
    changed[:, 0] += 1
    moved = (model.decode(changed, lens, num_steps=1)[0] - model.decode(latents, lens, num_steps=1)[0]).abs()
    assert moved[:, :4].max() > 1e-2
    assert moved[:, -4:].max() > 1e-4


def test_known_frames_are_kept_and_the_others_depend_on_them():
    model = make_model()
    batch = voices(SIZES, padding=torch.nan)
    latents, lens = model.encode(batch.wav, batch.wav_lens)
    truth, _ = model.frontend(batch.wav, batch.wav_lens)
    known = torch.zeros(3, 48, dtype=torch.bool)
    known[:, :10] = True
    known[0, 40:] = True
    feats = truth[:, :48].masked_fill(~known[..., None], torch.nan)
    decoded, feat_lens = model.decode(latents, lens, context=KnownFrames(feats, known), num_steps=2)
    assert torch.equal(decoded[known], feats[known])
    assert decoded.isfinite().all()
    assert not decoded[1, feat_lens[1] :].any()
    without, _ = model.decode(latents, lens, num_steps=2)
    new = ~known & valid_mask(feat_lens, 48)
    assert (decoded - without)[new].abs().max() > 1e-2
    louder, _ = model.decode(latents, lens, context=KnownFrames(feats + 3, known), num_steps=2)
    assert (louder - decoded)[new].abs().max() > 1e-2


def test_a_seed_gives_one_sample_and_a_step_is_one_evaluation():
    model = make_model()
    latents, lens = torch.zeros(1, 5, 4), torch.tensor([5])
    calls = []
    model.decoder.register_forward_hook(lambda *_: calls.append(1))
    first, _ = model.decode(latents, lens, num_steps=5, seed=1)
    assert len(calls) == 5
    torch.manual_seed(99)
    assert torch.equal(model.decode(latents, lens, num_steps=5, seed=1)[0], first)
    assert (model.decode(latents, lens, num_steps=5, seed=2)[0] - first).abs().max() > 0.1


def test_latents_are_normalised_over_the_data_and_denormalised_for_the_decoder():
    model = make_model()
    batches = [voices([16000] * 3, seed=1), voices(SIZES, padding=torch.nan)]
    raw, raw_lens = model.encode(batches[1].wav, batches[1].wav_lens)
    before, _ = model.decode(raw, raw_lens, num_steps=1)
    model.fit_latents(batches)
    rows = []
    for batch in batches:
        latents, lens = model.encode(batch.wav, batch.wav_lens)
        rows.append(latents[valid_mask(lens, latents.size(1))])
    found = torch.cat(rows)
    torch.testing.assert_close(found.mean(0), torch.zeros(4), atol=1e-4, rtol=0)
    torch.testing.assert_close(found.std(0, correction=0), torch.ones(4), atol=1e-3, rtol=0)
    assert (latents - raw).abs().max() > 0.1
    torch.testing.assert_close(model.decode(latents, lens, num_steps=1)[0], before, atol=1e-3, rtol=1e-3)


def test_drawn_latents_spread_as_the_encoder_says():
    model = make_model()
    batch = voices([4000])
    mean, log_std, _ = model._posterior(batch.wav, batch.wav_lens)
    generator = torch.Generator().manual_seed(0)
    draws = torch.cat([model.encode(batch.wav, batch.wav_lens, generator=generator)[0] for _ in range(300)])
    error = (draws.mean(0) - mean[0]) / log_std[0].exp()
    assert error.abs().max() < 5 / 300**0.5
    torch.testing.assert_close(draws.std(0), log_std[0].exp(), atol=0, rtol=0.25)


def test_too_short_for_a_latent():
    model = make_model()
    latents, lens = model.encode(torch.zeros(1, 639), torch.tensor([639]))
    assert lens.tolist() == [0]
    feats, feat_lens = model.decode(latents, lens)
    assert feats.shape == (1, 0, 80)
    assert feat_lens.tolist() == [0]
    batch = voices([8000, 100], padding=torch.nan)
    loss = make_model(context_prob=1.0).train().loss(batch)
    assert loss.total.isfinite()
    both, _ = model.encode(batch.wav, batch.wav_lens)
    torch.testing.assert_close(both[0], model.encode(batch.wav[:1], batch.wav_lens[:1])[0][0], atol=1e-4, rtol=1e-3)


def test_impossible_calls_are_refused():
    model = make_model()
    latents, lens = torch.zeros(1, 5, 4), torch.tensor([5])
    known = KnownFrames(torch.zeros(1, 19, 80), torch.zeros(1, 19, dtype=torch.bool))
    with pytest.raises(
        ShapeError, match=r"must be \(1, 20, 80\), and known \(1, 20\); got \(1, 19, 80\) and \(1, 19\)"
    ):
        model.decode(latents, lens, context=known)
    with pytest.raises(ConfigError, match="num_steps must be at least 1"):
        model.decode(latents, lens, num_steps=0)
    with pytest.raises(ValueError, match="spectrum magnitude and padding same, got power and center"):
        MelAutoencoderConfig(frontend=LogMelConfig())


def test_a_folder_holds_the_model(tmp_path):
    model = make_model()
    batch = voices(SIZES)
    model.fit_latents([batch])
    save_model(tmp_path / "autoencoder", model, CharTokenizer(("<blank>", "<unk>", "a")))
    loaded = load_model(tmp_path / "autoencoder").model
    latents, lens = model.encode(batch.wav, batch.wav_lens)
    assert torch.equal(loaded.encode(batch.wav, batch.wav_lens)[0], latents)
    assert torch.equal(loaded.decode(latents, lens)[0], model.decode(latents, lens)[0])


# Learning


class _Data:
    def __init__(self, *batches):
        self._batches = batches

    def batches(self, epoch):
        return iter(self._batches)


@pytest.mark.slow
def test_it_learns_to_code_voices_it_has_not_heard():
    torch.manual_seed(0)
    model = MelAutoencoder(MelAutoencoderConfig.debug())
    fit_normalizer(model, _Data(*(voices([8000] * 8, seed=seed) for seed in range(4))))
    assert model.normalizer.mean.abs().max() > 1
    unheard = voices([8000] * 4, seed=99)
    before = float(model.eval().loss(unheard).total.detach())
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    model.train()
    for step in range(150):
        loss = model.loss(voices([8000] * 8, seed=step))
        optimizer.zero_grad()
        loss.total.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    model.eval()
    assert float(model.loss(unheard).total.detach()) < 0.4 * before
    truth, _ = model.frontend(unheard.wav, unheard.wav_lens)
    latents, lens = model.encode(unheard.wav, unheard.wav_lens)
    decoded, _ = model.decode(latents, lens)
    error = float((decoded - truth[:, :48]).square().mean())
    mean_frame = truth[:, :48].mean((0, 1))
    assert error < 0.5 * float((mean_frame - truth[:, :48]).square().mean())
    # It is the latents that say which voice it is.
    swapped, _ = model.decode(latents.roll(1, dims=0), lens)
    assert error < 0.5 * float((swapped - truth[:, :48]).square().mean())
