"""What codes speech is trained by the loop that trains everything, and in the precision that CPUs are fast in."""

import pytest
import soundfile
import torch

from speechnar.config import parse_config
from speechnar.data.kaldi import Utterance, write_kaldi_dir
from speechnar.errors import DataError
from speechnar.models.base import load_model
from speechnar.models.tts.mel_autoencoder import MelAutoencoder, MelAutoencoderConfig
from speechnar.models.tts.vocos import Vocos, VocosConfig
from speechnar.models.tts.vocos_adversary import VocosAdversary, VocosAdversaryConfig
from speechnar.text.tokenizer import CharTokenizer
from speechnar.train.run import RunConfig, run_training
from tests.unit.models.sounds import voices

SMALL = {
    "vocos": VocosConfig.debug().model_copy(update={"model_dim": 32}),
    "mel_autoencoder": MelAutoencoderConfig.debug().model_copy(update={"model_dim": 32}),
}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpus")
    batch = voices([8000, 7000, 6000] * 4)
    utterances = []
    for utt_id, wav, length in zip(batch.utt_ids, batch.wav, batch.wav_lens.tolist(), strict=True):
        path = folder / f"{utt_id}.wav"
        soundfile.write(path, wav[:length].numpy(), 16000)
        utterances.append(
            Utterance(utt_id=utt_id, wav_path=path, text="a", spk_id=utt_id, duration_s=length / 16000, lang="eng")
        )
    write_kaldi_dir(folder / "train", sorted(utterances[:9], key=lambda utterance: utterance.utt_id))
    write_kaldi_dir(folder / "dev", sorted(utterances[9:], key=lambda utterance: utterance.utt_id))
    CharTokenizer(("<blank>", "<unk>", "a")).save(folder / "tokens")
    return folder


def run_config(corpus, model) -> RunConfig:
    return parse_config(
        {
            "model": model.model_dump(mode="json"),
            "data": {"train": str(corpus / "train"), "dev": str(corpus / "dev"), "batch_seconds": 3.0},
            "train": {"optim": {"lr": 3e-3}, "max_steps": 30, "device": "cpu", "validate_every": 15},
            "tokenizer": str(corpus / "tokens"),
        },
        RunConfig,
    )


@pytest.mark.parametrize("kind", ["vocos", "mel_autoencoder"])
def test_the_training_loop_trains_it_and_leaves_a_loadable_model(corpus, tmp_path, kind):
    result = run_training(run_config(corpus, SMALL[kind]), tmp_path)
    losses = [entry["loss"] for entry in result.history if entry["kind"] == "valid"]
    assert losses[-1] < losses[0]
    assert result.nan_steps == 0
    loaded = load_model(tmp_path / "model").model
    assert loaded.config == SMALL[kind]
    if isinstance(loaded, MelAutoencoder):
        assert loaded.normalizer.mean.abs().max() > 1  # measured on the data


def test_another_sample_rate_is_refused():
    frontend = VocosConfig.published().frontend
    model = Vocos(VocosConfig.debug().model_copy(update={"frontend": frontend}))
    with pytest.raises(DataError, match="needs speech of 24000 samples per second, got 16000"):
        model.loss(voices([8000]))  # training itself reads the data at the model's rate


def test_bfloat16_changes_the_losses_little():
    torch.manual_seed(0)
    batch = voices([8000, 6000])
    vocos, adversary = Vocos(VocosConfig.debug()), VocosAdversary(VocosAdversaryConfig.debug())
    autoencoder = MelAutoencoder(MelAutoencoderConfig.debug())
    losses = []
    for enabled in (False, True):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            real = vocos.eval().draw_segments(batch, torch.Generator().manual_seed(0))
            made = vocos.reconstruct(real)
            found = [
                vocos.reconstruction_loss(real, made).total,
                adversary.discriminator_loss(real, made).total,
                adversary.generator_loss(real, made).total,
                autoencoder.eval().loss(batch).total,
            ]
        for loss, module in zip(found, [vocos, adversary, vocos, autoencoder], strict=True):
            module.zero_grad()
            loss.backward(retain_graph=True)
            assert all(p.grad.isfinite().all() for p in module.parameters())
        losses.append(torch.stack([loss.detach().float() for loss in found]))
    assert losses[0].dtype == losses[1].dtype == torch.float32
    torch.testing.assert_close(losses[1], losses[0], rtol=0.03, atol=0)
    assert losses[1][0] != losses[0][0]  # bfloat16 it was
