import logging

import numpy as np
import pytest
import soundfile
import torch
import yaml
from torch import nn

import speechnar.models
from speechnar.audio.cmvn import GlobalCmvn
from speechnar.audio.fbank import LogMel, LogMelConfig
from speechnar.config import load_config, parse_config
from speechnar.data.kaldi import Utterance, write_kaldi_dir
from speechnar.data.parallel_text import write_sentences
from speechnar.errors import CheckpointError, ConfigError, DataError
from speechnar.files import LOCK_NAME, locked
from speechnar.models.base import AsrModel, LossOutput, ModelConfig, ModelEntry, load_model, save_model
from speechnar.models.mt.reta import RetaConfig
from speechnar.text.tokenizer import CharTokenizer
from speechnar.train.checkpoint import find_best, load_checkpoint, save_checkpoint
from speechnar.train.run import RunConfig, average, freeze, init_model, run_training
from tests.unit.disk import file_size_limit
from tests.unit.models import texts

TOKENIZER = CharTokenizer(("<blank>", "<unk>", "▁", "a", "b"))
PITCHES = {"a": 300.0, "b": 1500.0}


class PitchConfig(ModelConfig):
    kind: str = "pitch"
    model_dim: int = 16


class Pitch(AsrModel):
    """Tells two tones apart, frame by frame, with CTC."""

    sample_rate = 16000

    def __init__(self, config, tokenizer):
        super().__init__()
        self.config = config
        self.frontend = LogMel(LogMelConfig(num_mels=16))
        self.normalizer = GlobalCmvn(16)
        self.net = nn.Sequential(nn.Linear(16, config.model_dim), nn.ReLU(), nn.Linear(config.model_dim, 5))

    @classmethod
    def from_config(cls, config, tokenizer):
        return cls(config, tokenizer)

    def log_probs(self, batch):
        feats, lens = self.frontend(batch.wav, batch.wav_lens)
        feats, lens = self.normalizer(feats, lens)[:, ::4], (lens + 3) // 4
        return self.net(feats).float().log_softmax(-1), lens

    def loss(self, batch):
        log_probs, lens = self.log_probs(batch)
        loss = nn.functional.ctc_loss(log_probs.transpose(0, 1), batch.tokens, lens, batch.token_lens)
        return LossOutput(loss, {"ctc": loss.detach()}, torch.tensor(float(len(lens))))

    def recognize(self, batch):
        log_probs, lens = self.log_probs(batch)
        paths = [row[:n].unique_consecutive().tolist() for row, n in zip(log_probs.argmax(-1), lens, strict=True)]
        return [[token for token in path if token] for path in paths]


@pytest.fixture(autouse=True)
def _pitch_is_known(monkeypatch):
    monkeypatch.setattr(speechnar.models, "MODELS", {"pitch": ModelEntry(__name__, "PitchConfig", "Pitch")})


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpus")
    rng = np.random.default_rng(0)
    utterances = []
    for index in range(24):
        text = "".join(rng.choice(["a", "b"], size=3))
        tones = [np.sin(2 * np.pi * PITCHES[letter] * np.arange(4800) / 16000) for letter in text]
        wav = np.concatenate([np.append(0.3 * tone, np.zeros(1600)) for tone in tones])
        path = folder / f"utt{index:02d}.wav"
        soundfile.write(path, wav + 0.01 * rng.normal(size=wav.size), 16000)
        utterances.append(
            Utterance(
                utt_id=path.stem, wav_path=path, start_s=None, end_s=None, text=text, spk_id=path.stem,
                lang="eng", duration_s=wav.size / 16000, translations={},
            )
        )  # fmt: skip
    write_kaldi_dir(folder / "train", utterances[:16])
    write_kaldi_dir(folder / "dev", utterances[16:])
    TOKENIZER.save(folder / "tokens")
    return folder


def run_config(corpus, **changes):
    values = {
        "model": {"kind": "pitch"},
        "data": {"train": str(corpus / "train"), "dev": str(corpus / "dev"), "batch_seconds": 8.0, "num_buckets": 2},
        "train": {
            "optim": {"lr": 2e-2, "schedule": {"kind": "inv_sqrt", "warmup_steps": 50}},
            "max_steps": 120,
            "device": "cpu",
            "validate_every": 40,
            "select": "cer",
        },
        "tokenizer": str(corpus / "tokens"),
        "average": 2,
    }
    return parse_config({**values, **changes}, RunConfig)


def test_run_learns_and_leaves_a_loadable_model(corpus, tmp_path, caplog):
    config = run_config(corpus)
    result = run_training(config, tmp_path)
    losses = [entry["loss"] for entry in result.history if entry["kind"] == "valid"]
    assert losses[-1] < 0.2 * losses[0]
    assert result.best_metrics["cer"] < 0.1
    assert load_config(tmp_path / "config.yaml", RunConfig) == config
    loaded = load_model(tmp_path / "model")
    assert loaded.tokenizer.pieces == TOKENIZER.pieces
    assert isinstance(loaded.model, Pitch)
    assert loaded.model.normalizer.mean.abs().sum() > 0  # measured on the data
    assert "120 updates" in (tmp_path / "model/README.md").read_text()

    before = (tmp_path / "model/model.safetensors").read_bytes()
    again = run_training(config, tmp_path)  # nothing is left to train, and the data does not change the export
    assert again.history == result.history
    assert (tmp_path / "model/model.safetensors").read_bytes() == before

    single = torch.load(find_best(tmp_path)[0], weights_only=True)["model"]
    average(tmp_path, 1)
    for name, value in load_model(tmp_path / "model").model.state_dict().items():
        assert torch.equal(value, single[name])

    with caplog.at_level(logging.WARNING):
        run_training(run_config(corpus, average=1), tmp_path)
    assert "differs from the one it was left with" in caplog.text


SHORT = {
    "optim": {"lr": 2e-2, "schedule": {"kind": "inv_sqrt", "warmup_steps": 50}},
    "max_steps": 2,
    "device": "cpu",
    "validate_every": 2,
    "select": "cer",
}


def test_a_restart_that_is_refused_leaves_the_run_as_it_was(corpus, tmp_path):
    run_training(run_config(corpus, train=SHORT), tmp_path / "run")
    before = {path: path.read_bytes() for path in sorted((tmp_path / "run").rglob("*")) if path.is_file()}
    TOKENIZER.save(tmp_path / "tokens")
    (tmp_path / "empty").mkdir()
    for changes in (
        {"model": {"kind": "pitch", "model_dim": 8}},
        {"data": {"train": str(tmp_path / "empty"), "dev": str(corpus / "dev")}},
        {"tokenizer": str(tmp_path / "empty")},
        {"frozen": ["nothing."]},
    ):
        with pytest.raises((CheckpointError, ConfigError, DataError)):
            run_training(run_config(corpus, **{"train": {**SHORT, "max_steps": 4}, **changes}), tmp_path / "run")
        after = {path: path.read_bytes() for path in before}
        assert after == before, changes
    average(tmp_path / "run", 1)
    longer = run_config(corpus, train={**SHORT, "max_steps": 4})
    assert run_training(longer, tmp_path / "run").step == 4
    assert load_config(tmp_path / "run/config.yaml", RunConfig) == longer


def test_two_runs_do_not_share_a_folder(corpus, tmp_path):
    with locked(tmp_path), pytest.raises(ConfigError, match="another process works there"):
        run_training(run_config(corpus, train=SHORT), tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {LOCK_NAME}


def test_a_full_disk_is_named_and_the_run_goes_on_once_there_is_room(corpus, tmp_path):
    config = run_config(corpus, train={**SHORT, "save_every": 1})
    with file_size_limit(6000), pytest.raises(CheckpointError, match=r"cannot be written .*once there is room"):
        run_training(config, tmp_path)
    assert run_training(config, tmp_path).step == 2


def test_a_damaged_checkpoint_costs_the_steps_since_the_one_before_it(corpus, tmp_path, caplog):
    def run(folder, max_steps):
        train = {**SHORT, "max_steps": max_steps, "log_every": 1, "save_every": 1, "validate_every": 2}
        return run_training(run_config(corpus, train=train), tmp_path / folder)

    whole = run("whole", 6)
    run("damaged", 5)
    last = tmp_path / "damaged/checkpoints/last.pt"
    content = bytearray(last.read_bytes())
    content[len(content) // 2] ^= 0xFF
    last.write_bytes(content)
    resumed = run("damaged", 6)
    assert "the run goes on from the one before it" in caplog.text
    losses = [[(entry["step"], entry["loss"]) for entry in result.history] for result in (resumed, whole)]
    assert losses[0] == losses[1]
    assert load_checkpoint(tmp_path / "damaged/checkpoints/previous.pt")["state"]["step"] == 5, "not the damaged one"


def test_real_data_resumes_exactly(corpus, tmp_path):
    def run(folder, max_steps):
        values = run_config(corpus).train.model_dump()
        train = {**values, "max_steps": max_steps, "log_every": 1, "save_every": 1, "validate_every": 100}
        history = run_training(run_config(corpus, train=train), tmp_path / folder).history
        return [(entry["step"], entry["loss"]) for entry in history if entry["kind"] == "train"]

    whole = run("whole", 9)
    for step in (1, 2, 5):
        run("steps", step)
    assert run("steps", 9) == whole


def test_model_of_the_configuration_is_checked_with_its_path(corpus):
    with pytest.raises(ConfigError, match=r"model.*model_dims: unknown key, did you mean model_dim"):
        run_config(corpus, model={"kind": "pitch", "model_dims": 3})
    with pytest.raises(ConfigError, match="model kind must be one of pitch"):
        run_config(corpus, model={"kind": "unheard"})
    saved = yaml.safe_load(yaml.safe_dump(run_config(corpus).model_dump(mode="json")))
    assert parse_config(saved, RunConfig) == run_config(corpus)


def test_init_takes_what_fits_and_reports_the_rest(tmp_path):
    torch.manual_seed(1)
    source = Pitch(PitchConfig(), TOKENIZER)
    save_model(tmp_path / "source", source, TOKENIZER)
    target = Pitch(PitchConfig(), TOKENIZER)
    target.net[2] = nn.Linear(16, 7)  # another vocabulary
    target.extra = nn.Linear(1, 1, bias=False)
    report = init_model(target, tmp_path / "source")
    assert report.mismatched == ["net.2.bias", "net.2.weight"]
    assert report.missing == ["extra.weight"]
    assert report.unknown == []
    assert "net.0.weight" in report.loaded
    assert torch.equal(target.net[0].weight, source.net[0].weight)

    save_checkpoint(tmp_path / "step.pt", {"model": source.state_dict()})
    assert init_model(Pitch(PitchConfig(), TOKENIZER), tmp_path / "step.pt").missing == []
    save_checkpoint(tmp_path / "other.pt", {"model": {"foreign": torch.ones(1)}})
    with pytest.raises(CheckpointError, match="another model"):
        init_model(target, tmp_path / "other.pt")


def test_many_missing_weights_are_counted_by_part(tmp_path, caplog):
    save_model(tmp_path / "source", Pitch(PitchConfig(), TOKENIZER), TOKENIZER)
    target = Pitch(PitchConfig(), TOKENIZER)
    target.extra = nn.ModuleList(nn.Linear(1, 1) for _ in range(15))
    with caplog.at_level(logging.INFO):
        init_model(target, tmp_path / "source")
    assert "missing: 30 of extra" in caplog.text
    assert "extra.0.weight" not in caplog.text


def test_frozen_parts_stay_as_they_start(corpus, tmp_path):
    torch.manual_seed(1)
    source = Pitch(PitchConfig(), TOKENIZER)
    save_model(tmp_path / "source", source, TOKENIZER)
    run_training(run_config(corpus, init_from=str(tmp_path / "source"), frozen=["net.0."]), tmp_path / "run")
    trained, before = load_model(tmp_path / "run/model").model.net, source.net
    assert torch.equal(trained[0].weight, before[0].weight)
    assert torch.equal(trained[0].bias, before[0].bias)
    assert not torch.equal(trained[2].weight, before[2].weight)
    with pytest.raises(ConfigError, match=r"no weight of the model has a name that begins with 'nets\.'"):
        run_training(run_config(corpus, frozen=["nets."]), tmp_path / "other")


def test_statistics_of_a_frozen_norm_stay():
    net = nn.Sequential(nn.BatchNorm1d(2), nn.BatchNorm1d(2))
    freeze(net, "0.")
    net.train()(torch.randn(8, 2) + 5)
    assert torch.equal(net[0].running_mean, torch.zeros(2))
    assert not torch.equal(net[1].running_mean, torch.zeros(2))


def test_pairs_of_texts_are_trained_on_by_the_same_loop(tmp_path, monkeypatch):
    monkeypatch.setattr(
        speechnar.models, "MODELS", {"reta": ModelEntry("speechnar.models.mt.reta", "RetaConfig", "Reta")}
    )
    write_sentences(tmp_path / "train", texts.sentences(8))
    write_sentences(tmp_path / "dev", texts.sentences(8)[:4])
    texts.TOKENIZER.save(tmp_path / "tokens")
    values = {
        "model": RetaConfig.debug().model_dump(),
        "data": {"kind": "pairs", "train": str(tmp_path / "train"), "dev": str(tmp_path / "dev")}
        | {"source": "eng", "target": "deu"},
        "train": {
            "optim": {"lr": 4e-3, "schedule": {"kind": "inv_sqrt", "warmup_steps": 20}},
            "max_steps": 80,
            "device": "cpu",
            "validate_every": 40,
            "select": "1-bleu",
        },
        "tokenizer": str(tmp_path / "tokens"),
        "average": 1,
    }
    result = run_training(parse_config(values, RunConfig), tmp_path / "exp")
    assert result.best_metrics["1-bleu"] < 0.4
    assert "1-bleu" in (tmp_path / "exp/model/README.md").read_text()
    direction = "---\nlanguage: [eng, deu]\ntasks: [mt]\nsource: eng\ntarget: deu\n---\n# "
    assert (tmp_path / "exp/model/README.md").read_text().startswith(direction)
    average(tmp_path / "exp", 1)
    assert (tmp_path / "exp/model/README.md").read_text().startswith(direction)
    speech = {"train": "a", "dev": "b"}
    with pytest.raises(ConfigError, match="data must be of kind pairs for a model of kind reta, got speech"):
        run_training(parse_config({**values, "data": speech}, RunConfig), tmp_path / "speech")
    with pytest.raises(ConfigError, match=r"data.*sources: unknown key, did you mean source"):
        parse_config({**values, "data": {**values["data"], "sources": "eng"}}, RunConfig)


def test_a_model_of_speech_needs_speech(corpus, tmp_path):
    pairs = {"kind": "pairs", "train": "a", "dev": "b", "source": "eng", "target": "deu"}
    with pytest.raises(ConfigError, match="data must be of kind speech for a model of kind pitch, got pairs"):
        run_training(run_config(corpus, data=pairs), tmp_path)
