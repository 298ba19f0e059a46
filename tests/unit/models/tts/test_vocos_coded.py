import pytest
import torch

from speechnar.audio.fbank import LogMelConfig
from speechnar.models.base import load_model, save_model
from speechnar.models.tts.mel_pca import MelPca, MelPcaConfig
from speechnar.models.tts.vocos import Vocos, VocosConfig
from speechnar.models.tts.vocos_coded import VocosCoded, VocosCodedConfig
from speechnar.text.tokenizer import CharTokenizer
from speechnar.train.run import init_model
from tests.unit.models.sounds import voices

SIZES = [16000, 20000, 9000, 30000]


def make_model(**changes) -> VocosCoded:
    torch.manual_seed(0)
    config = VocosCodedConfig.debug()
    model = VocosCoded(config.model_copy(update={"vocos": config.vocos.model_copy(update=changes)}))
    model.codec.fit([voices(SIZES)])
    return model


def test_its_loss_is_that_of_log_mels_which_have_gone_through_latents():
    model = make_model(magnitude_weight=1.0).eval()
    batch = voices(SIZES)
    with torch.no_grad():
        wav = model.vocos.draw_segments(batch)
        found = model.codec.decode(*model.codec.encode(wav, torch.full((4,), wav.size(1))))
        size = found[0].size(1) * 160
        assert 0 <= wav.size(1) - size < model.config.codec.frames_per_latent * 160
        expected, loss = model.vocos.loss_of(wav[:, :size], *found), model.loss(batch)
        assert torch.equal(loss.total, expected.total)
        assert loss.parts.keys() == {"magnitude", "mel", "stft"}
        assert not torch.equal(loss.total, model.vocos.loss(batch).total)


def test_the_codec_is_given_and_the_vocoder_learns(tmp_path):
    model = make_model().train()
    before = {name: value.clone() for name, value in model.codec.state_dict().items()}
    optimizer = torch.optim.AdamW(filter(lambda value: value.requires_grad, model.parameters()), lr=1e-3)
    first = last = 0.0
    for _ in range(30):
        loss = model.loss(voices(SIZES)).total
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        first, last = first or float(loss.detach()), float(loss.detach())
    assert last < 0.8 * first
    assert all(torch.equal(value, before[name]) for name, value in model.codec.state_dict().items())
    assert not model.codec.training
    assert model.pretrained == ("codec.",)
    save_model(tmp_path, model.exported, CharTokenizer(["<blank>", "<unk>", "a"]))
    assert isinstance(load_model(tmp_path).model, Vocos)


def test_it_begins_with_a_codec_and_perhaps_a_vocoder(tmp_path):
    tokenizer = CharTokenizer(["<blank>", "<unk>", "a"])
    codec, vocos = MelPca(MelPcaConfig.debug()), Vocos(VocosConfig.debug())
    codec.fit([voices(SIZES)])
    save_model(tmp_path / "codec", codec, tokenizer)
    save_model(tmp_path / "vocos", vocos, tokenizer)
    model = make_model()
    torch.nn.init.zeros_(model.vocos.head.weight)
    for part in ("codec", "vocos"):
        init_model(model, tmp_path / part)
    assert torch.equal(model.codec.components, codec.components)
    assert torch.equal(model.vocos.head.weight, vocos.head.weight)


def test_both_hear_alike():
    with pytest.raises(ValueError, match=r"vocos\.frontend must be equal to codec\.frontend"):
        VocosCodedConfig(vocos=VocosConfig(frontend=LogMelConfig.for_vocoder(24000)))
    assert VocosCodedConfig.published().vocos.frontend.sample_rate == 24000
