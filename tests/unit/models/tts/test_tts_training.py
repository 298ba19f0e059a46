"""Text to speech is trained by the loop that trains everything, from the folders of its codec and its vocoder."""

import pytest
import soundfile
import torch
import yaml

from speechnar.audio.fbank import LogMelConfig
from speechnar.cli.main import main
from speechnar.config import parse_config
from speechnar.data.kaldi import Utterance, write_kaldi_dir
from speechnar.errors import ConfigError
from speechnar.models.base import load_model, save_model
from speechnar.models.tts.tts import TtsConfig
from speechnar.models.tts.vocos import Vocos
from speechnar.text.tokenizer import CharTokenizer
from speechnar.train.run import RunConfig, run_training
from tests.unit.models.sounds import voices

TOKENIZER = CharTokenizer(("<blank>", "<unk>", *"ab"))


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return write_corpus(tmp_path_factory.mktemp("corpus"))


def write_corpus(folder):
    batch = voices([16000, 12800, 9600] * 4)
    utterances = []
    for i, (wav, length) in enumerate(zip(batch.wav, batch.wav_lens.tolist(), strict=True)):
        path = folder / f"voice{i:02d}.wav"
        soundfile.write(path, wav[:length].numpy(), 16000)
        seconds = length / 16000
        utterances.append(
            Utterance(path.stem, path, "aba", path.stem, seconds, durations=(0.1, seconds - 0.3, 0.2))
        )  # fmt: skip
    write_kaldi_dir(folder / "train", utterances[:9])
    write_kaldi_dir(folder / "dev", utterances[9:])
    TOKENIZER.save(folder / "tokens")
    return folder


def run_values(corpus, config: TtsConfig, init_from=None):
    return {
        "model": config.model_dump(mode="json"),
        "data": {"train": str(corpus / "train"), "dev": str(corpus / "dev"), "batch_seconds": 4.0, "num_buckets": 2},
        "train": {
            "optim": {"lr": 2e-3, "schedule": {"kind": "cosine", "warmup_steps": 5, "total_steps": 20}},
            "max_steps": 20,
            "device": "cpu",
            "precision": "bf16",
            "ema_decay": 0.9,
            "validate_every": 10,
        },
        "tokenizer": str(corpus / "tokens"),
        "init_from": init_from,
    }


def save_vocoder(folder, config: TtsConfig):
    torch.manual_seed(7)
    save_model(folder, Vocos(config.vocoder), TOKENIZER)


def fit_codec_of(values, folder, *overrides) -> int:
    """Write the codec's folder as the command line does; return the exit status."""
    (folder / "tts.yaml").write_text(yaml.safe_dump(values))
    return main(["tts", "fit-codec", str(folder / "tts.yaml"), str(folder / "codec"), *overrides])


@pytest.mark.parametrize("sample_rate", [16000, pytest.param(24000, marks=pytest.mark.slow)])
def test_a_run_starts_from_its_parts_and_leaves_them_as_they_are(corpus, tmp_path, sample_rate):
    frontend = {"frontend": LogMelConfig.for_vocoder(sample_rate)}
    debug = TtsConfig.debug()
    config = TtsConfig(
        codec=debug.codec.model_copy(update=frontend),
        ardit=debug.ardit.model_copy(update={"history_noise": 0.2}),
        durations=debug.durations,
        vocoder=debug.vocoder.model_copy(update={"segment_frames": 10, **frontend}),
    )
    values = run_values(corpus, config)
    assert fit_codec_of(values, tmp_path, "train.seed=3") == 0
    save_vocoder(tmp_path / "vocoder", config)
    parts = [str(tmp_path / "codec"), str(tmp_path / "vocoder")]
    result = run_training(parse_config({**values, "init_from": parts}, RunConfig), tmp_path / "exp")
    losses = [entry["loss"] for entry in result.history if entry["kind"] == "valid"]
    assert losses[-1] < losses[0]
    assert result.nan_steps == 0
    model = load_model(tmp_path / "exp/model").model
    assert model.sample_rate == sample_rate
    for name in ("codec", "vocoder"):
        expected = load_model(tmp_path / name).model.state_dict()
        found = getattr(model, name).state_dict()
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[key], expected[key]) for key in found)
    assert model.codec.mean.any()

    # What was trained serves as the start of another run, with or without its parts.
    again = run_values(corpus, config, str(tmp_path / "exp/model"))
    again["train"]["max_steps"] = 1
    assert run_training(parse_config(again, RunConfig), tmp_path / "again").best_metrics["loss"] < losses[0]


def test_a_run_without_its_parts_is_refused(corpus, tmp_path):
    config = TtsConfig.debug()
    with pytest.raises(ConfigError, match="init_from must name a model folder of kind mel_pca or mel_autoencoder"):
        run_training(parse_config(run_values(corpus, config), RunConfig), tmp_path / "exp")
    values = run_values(corpus, config)
    assert fit_codec_of(values, tmp_path) == 0
    with pytest.raises(ConfigError, match="of kind vocos: Tts does not train its vocoder itself"):
        run_training(parse_config({**values, "init_from": str(tmp_path / "codec")}, RunConfig), tmp_path / "exp")
