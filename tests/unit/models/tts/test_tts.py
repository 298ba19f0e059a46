import math
from dataclasses import replace

import pytest
import torch

from speechnar.audio.fbank import LogMelConfig
from speechnar.data.batch import SpeechBatch
from speechnar.data.latents import aligned_positions, linear_positions
from speechnar.errors import DataError
from speechnar.models.base import load_model, save_model
from speechnar.models.tts.ardit import ArditConfig
from speechnar.models.tts.mel_autoencoder import MelAutoencoder, MelAutoencoderConfig
from speechnar.models.tts.mel_pca import MelPca
from speechnar.models.tts.tts import MAX_DURATION, DurationConfig, DurationPredictor, Tts, TtsConfig
from speechnar.models.tts.vocos import VocosConfig
from speechnar.nn.lengths import valid_mask
from speechnar.text.tokenizer import CharTokenizer
from speechnar.train.optim import OptimConfig, build_optimizer
from tests.unit.models.sounds import voices

TOKENIZER = CharTokenizer(("<blank>", "<unk>", *"abcdefg"))
SHIFT_S = 0.04


def make_model(**changes) -> Tts:
    torch.manual_seed(0)
    model = Tts(TtsConfig.debug().model_copy(update=changes), TOKENIZER.vocab_size)
    assert isinstance(model.codec, MelPca)
    model.codec.fit([voices([16000, 12000, 9000])])
    return model.eval()


def make_batch(padding: float = 0.0) -> SpeechBatch:
    """Return three utterances of 7, 12 and 3 tokens of various lengths."""
    batch = voices([16000, 14500, 5000], padding=padding)
    token_lens = torch.tensor([7, 12, 3])
    generator = torch.Generator().manual_seed(5)
    tokens = torch.randint(2, TOKENIZER.vocab_size, (3, 12), generator=generator)
    valid = valid_mask(token_lens, 12)
    durations = torch.rand(3, 12, generator=generator).masked_fill(~valid, 0.0)
    durations = durations * (batch.wav_lens / 16000 / durations.sum(1))[:, None]
    tokens = tokens.masked_fill(~valid, TOKENIZER.pad_id)
    return replace(
        batch,
        tokens=tokens, token_lens=token_lens, asr_tokens=tokens, asr_token_lens=token_lens,
        durations=durations.masked_fill(~valid, padding),
    )  # fmt: skip


def alone(batch: SpeechBatch, i: int) -> SpeechBatch:
    """Return utterance ``i`` without padding."""
    num_samples, num_tokens = int(batch.wav_lens[i]), int(batch.asr_token_lens[i])
    assert batch.durations is not None
    tokens, lens = batch.asr_tokens[i : i + 1, :num_tokens], batch.asr_token_lens[i : i + 1]
    return replace(
        batch,
        wav=batch.wav[i : i + 1, :num_samples], wav_lens=batch.wav_lens[i : i + 1],
        tokens=tokens, token_lens=lens, asr_tokens=tokens, asr_token_lens=lens,
        durations=batch.durations[i : i + 1, :num_tokens],
        utt_ids=batch.utt_ids[i : i + 1],
    )  # fmt: skip


# Latents


@pytest.mark.parametrize("positions", ["aligned", "linear"])
def test_latents_are_those_of_the_codec_and_padding_changes_nothing(positions):
    model, batch = make_model(positions=positions), make_batch(padding=torch.nan)
    speech = model.latents(batch)
    assert speech.latent_lens.tolist() == [25, 22, 7]  # whole latents of 640 samples
    for i in range(3):
        one = model.latents(alone(batch, i))
        latents, lens = model.codec.encode(alone(batch, i).wav, alone(batch, i).wav_lens)
        length = int(lens)
        torch.testing.assert_close(one.latents, latents)
        torch.testing.assert_close(speech.latents[i, :length], latents[0])
        torch.testing.assert_close(speech.positions[i, :length], one.positions[0])
        make = {"linear": lambda durations, *lens: linear_positions(*lens), "aligned": aligned_positions}[positions]
        expected = make(alone(batch, i).durations, one.token_lens, lens)
        torch.testing.assert_close(one.positions, expected)


def test_channels_weigh_as_their_deviations():
    batch = make_batch()
    assert make_model().latents(batch).weights is None
    model = make_model(channel_weighting=1.0)
    weights = model.latents(batch).weights
    assert weights is not None
    torch.testing.assert_close(weights, model.codec.std / model.codec.std.mean())
    assert weights[0] > 2 * weights[3] > 0


def test_latents_say_what_they_need():
    model, batch = make_model(), make_batch()
    with pytest.raises(DataError, match=r"needs durations.*data durations.*positions=linear"):
        model.latents(replace(batch, durations=None))
    with pytest.raises(DataError, match="16000 samples per second, got 8000"):
        model.latents(replace(batch, sample_rate=8000))
    short = replace(batch, wav_lens=torch.tensor([16000, 639, 5000]))
    with pytest.raises(DataError, match=r"'voice1': needs a text and at least 0.04 s"):
        model.latents(short)
    with pytest.raises(DataError, match="'voice2': needs a text"):
        model.latents(replace(batch, asr_token_lens=torch.tensor([7, 12, 0])))
    assert make_model(positions="linear").latents(replace(batch, durations=None)).positions.isfinite().all()


# Durations


def constant_predictor(value: float) -> Tts:
    model = make_model()
    torch.nn.init.zeros_(model.durations.output.weight)
    torch.nn.init.constant_(model.durations.output.bias, value)
    return model


def test_durations_are_predicted_as_they_are_learned():
    """Where the network gives the logarithm that is its goal, the loss is 0, and the prediction the duration."""
    batch = make_batch()
    valid = valid_mask(batch.asr_token_lens, 12)
    three = replace(batch, durations=(3 * SHIFT_S * valid).float())
    model = constant_predictor(math.log(4.0))
    assert float(model.loss(three).parts["duration"]) == pytest.approx(0.0, abs=1e-10)
    predicted = model.predict_durations(batch.asr_tokens, batch.asr_token_lens)
    torch.testing.assert_close(predicted, three.durations)
    assert float(constant_predictor(math.log(4.0) + 0.5).loss(three).parts["duration"]) == pytest.approx(0.25)


def test_predicted_durations_have_limits():
    batch = make_batch()
    for value, expected in ((-3.0, 0.0), (50.0, MAX_DURATION * SHIFT_S)):
        seconds = constant_predictor(value).predict_durations(batch.asr_tokens, batch.asr_token_lens)
        torch.testing.assert_close(seconds[0, :7], torch.full((7,), expected), rtol=1e-4, atol=1e-6)
        assert (seconds[2, 3:] == 0).all()


def test_the_predictor_sees_no_padding():
    model, batch = make_model(), make_batch()
    tokens = batch.asr_tokens.masked_fill(~valid_mask(batch.asr_token_lens, 12), -7)
    together = model.predict_durations(tokens, batch.asr_token_lens)
    for i, length in enumerate(batch.asr_token_lens.tolist()):
        one = model.predict_durations(tokens[i : i + 1, :length], batch.asr_token_lens[i : i + 1])
        torch.testing.assert_close(together[i, :length], one[0], rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_durations_are_learned_from_tokens_or_from_sums():
    """Token k of the alphabet lasts k latents; sums of random texts tell as much as the tokens themselves."""
    generator = torch.Generator().manual_seed(1)
    lens = torch.randint(3, 9, (32,), generator=generator)
    tokens = torch.randint(1, 7, (32, 8), generator=generator) * valid_mask(lens, 8)
    seconds = tokens * SHIFT_S
    for by_token in (True, False):
        model = make_model(durations=DurationConfig(model_dim=32, kernel_size=1, dropout=0.0), positions="linear")
        optimizer = torch.optim.Adam(model.durations.parameters(), 1e-2)
        speech = replace_speech(model, tokens, lens)
        for _ in range(200):
            optimizer.zero_grad()
            model.duration_loss(speech, seconds if by_token else None).backward()
            optimizer.step()
        predicted = model.predict_durations(tokens, lens)
        torch.testing.assert_close(predicted, seconds, atol=0.2 * SHIFT_S, rtol=0.05)


def replace_speech(model, tokens, lens):
    """Return speech of ``tokens`` that lasts as many latents as their sum."""
    speech = model.latents(make_batch())
    return replace(speech, tokens=tokens, token_lens=lens, latent_lens=tokens.sum(1))


# Training


def test_what_is_trained_gets_gradients_and_the_rest_stays_out_of_it():
    model, batch = make_model(), make_batch()
    model.train()
    assert model.ardit.training
    assert not model.codec.training
    assert not any(module.training for module in model.vocoder.modules())
    for parameter in model.ardit.parameters():
        if not parameter.any():  # what adaLN-Zero begins with
            torch.nn.init.normal_(parameter, std=0.3)
    loss = model.loss(batch)
    torch.testing.assert_close(loss.total, loss.parts["flow"] + loss.parts["duration"])
    loss.total.backward()
    for name, parameter in model.named_parameters():
        is_frozen = name.startswith(model.pretrained)
        assert (parameter.grad is None) == is_frozen, name
        assert is_frozen or parameter.grad.abs().sum() > 0, name
    optimized = {id(p) for group in build_optimizer(model, OptimConfig()).param_groups for p in group["params"]}
    assert optimized == {id(p) for part in (model.ardit, model.durations) for p in part.parameters()}


def test_validation_repeats_itself_and_half_precision_keeps_latents():
    model, batch = make_model(), make_batch()
    first, second = (model.loss(batch) for _ in range(2))
    assert torch.equal(first.total, second.total)
    assert int(first.weight) > 0
    expected = model.latents(batch).latents
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(model.latents(batch).latents, expected)
        assert model.loss(batch).total.dtype == torch.float32


def test_a_folder_holds_all_of_it(tmp_path):
    model, batch = make_model(), make_batch()
    save_model(tmp_path, model, TOKENIZER)
    loaded = load_model(tmp_path).model
    assert isinstance(loaded, Tts)
    assert torch.equal(loaded.loss(batch).total, model.loss(batch).total)
    speech = model.latents(batch)
    feats, feat_lens = model.codec.decode(speech.latents, speech.latent_lens)
    expected = model.vocoder(feats, feat_lens)[0]
    assert torch.equal(loaded.vocoder(*loaded.codec.decode(speech.latents, speech.latent_lens))[0], expected)
    assert loaded.sample_rate == 16000
    assert loaded.latent_shift_s == SHIFT_S


# Configuration


def test_parts_must_fit_each_other():
    config = TtsConfig.debug()
    with pytest.raises(ValueError, match=r"ardit.latent_dim must be the 4 of codec.latent_dim, got 32"):
        TtsConfig(codec=config.codec)
    with pytest.raises(ValueError, match=r"vocoder\.frontend must be equal to codec.frontend"):
        TtsConfig(vocoder=VocosConfig(frontend=LogMelConfig.for_vocoder(24000)))
    with pytest.raises(ValueError, match="channel_weighting needs the principal components"):
        TtsConfig(codec=MelAutoencoderConfig(), ardit=ArditConfig(latent_dim=16), channel_weighting=1.0)
    with pytest.raises(ValueError, match="kernel_size must be odd, got 4"):
        DurationConfig(kernel_size=4)


def test_the_published_system_is_that_of_the_paper():
    config = TtsConfig.published()
    assert isinstance(config.codec, MelAutoencoderConfig)
    with torch.device("meta"):
        model = Tts(config, 80)
    assert model.sample_rate == 24000
    assert 1 / model.latent_shift_s == pytest.approx(23.4375)
    assert config.positions == "linear"
    assert isinstance(model.codec, MelAutoencoder)


def test_the_default_model_is_small():
    model = Tts(TtsConfig(), 80)
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert 6.5e6 < trained < 7.5e6
    assert model.latent_shift_s == SHIFT_S
    assert isinstance(model.durations, DurationPredictor)
