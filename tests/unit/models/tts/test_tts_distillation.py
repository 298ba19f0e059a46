"""Distillation of a whole model of text to speech, from folder to folder by the training of any model."""

import pytest
import soundfile
import torch
from torch import nn

from speechnar.config import parse_config
from speechnar.data.kaldi import Utterance, write_kaldi_dir
from speechnar.errors import ConfigError
from speechnar.models.base import load_model, save_model
from speechnar.models.tts.ardit import blur
from speechnar.models.tts.ardit_one_step import TtsDistillation, TtsDistillationConfig
from speechnar.models.tts.mel_pca import MelPca
from speechnar.models.tts.tts import Tts, TtsConfig
from speechnar.models.tts.vocos import Vocos
from speechnar.text.tokenizer import CharTokenizer
from speechnar.train.run import RunConfig, run_training
from tests.unit.models.sounds import voices
from tests.unit.models.tts.test_tts import TOKENIZER as LETTERS
from tests.unit.models.tts.test_tts import make_batch, make_model

TOKENIZER = CharTokenizer(("<blank>", "<unk>", *"ab"))
METHODS = ["regression", "matching", "energy"]


def make_distillation(method: str, *, history_noise: float = 0.0, **changes) -> TtsDistillation:
    """Return a model whose ARDiT, and with it teacher and fake, has some velocity."""
    debug = TtsConfig.debug()
    ardit = debug.ardit.model_copy(update={"history_noise": history_noise, "dropout": 0.5})
    tts = debug.model_copy(update={"ardit": ardit})
    config = TtsDistillationConfig.debug().model_copy(update={"tts": tts, "method": method, **changes})
    torch.manual_seed(0)
    model = TtsDistillation(config, LETTERS.vocab_size)
    model.tts.codec.load_state_dict(make_model().codec.state_dict())
    for parameter in model.tts.ardit.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.3)
    model.begin()
    return model.train()


@pytest.mark.parametrize("method", METHODS)
def test_each_turn_teaches_one_network_and_all_of_it(method):
    model, batch = make_distillation(method), make_batch(padding=torch.nan)
    learns = {
        "student": [p for p in model.tts.ardit.parameters()],
        "fake": [] if model.fake is None else list(model.fake.parameters()),
    }
    if method == "energy":
        learns["student"] += model.tts.durations.parameters()
    assert [turn.name for turn in model.turns()] == (["fake"] * 2 if method == "matching" else []) + ["student"]
    with torch.no_grad():  # samples of a student equal to the teacher teach nothing by matching
        for parameter in model.tts.ardit.parameters():
            parameter.add_(0.01 * torch.randn_like(parameter))
    for turn in model.turns():
        model.zero_grad()
        loss = turn.loss(batch)
        assert loss.total.isfinite()
        loss.total.backward()
        own = {id(p) for p in learns[turn.name]}
        others = [p for p in model.parameters() if id(p) not in own]
        assert all(p.grad is None for p in others)
        assert sum(bool(p.grad is not None and p.grad.any()) for p in learns[turn.name]) > 0.9 * len(own)
        named = [name for name, p in model.named_parameters() if p.requires_grad and name.startswith(turn.prefix)]
        assert len(named) == len(own)


def test_a_student_equal_to_its_teacher_has_only_the_regression_to_learn():
    model, batch = make_distillation("matching", regression_weight=0.5), make_batch()
    loss = model.student_loss(batch)
    assert float(loss.parts["matching"]) < 1e-8
    assert float(loss.parts["regression"]) > 1e-4
    assert float(loss.total.detach()) == pytest.approx(0.5 * float(loss.parts["regression"]), rel=1e-4)
    spared = make_distillation("matching", regression_weight=0.0)
    assert spared.student_loss(batch).parts.keys() == {"matching"}
    # What a teacher does in one step is what the student repeats at once.
    once = make_distillation("regression", teacher_steps=1)
    assert float(once.student_loss(batch).total.detach()) < 1e-8


@pytest.mark.parametrize("method", METHODS)
def test_held_out_loss_is_the_energy_score_whatever_the_method(method):
    model, batch = make_distillation(method, history_noise=0.5).eval(), make_batch()
    losses = [model.loss(batch) for _ in range(2)]
    assert float(losses[0].total.detach()) == float(losses[1].total.detach())
    energy = make_distillation("energy").eval().loss(batch).parts["energy"]
    torch.testing.assert_close(losses[0].parts["energy"], energy)
    others = {"regression": {"regression"}, "matching": set(), "energy": {"duration"}}
    assert losses[0].parts.keys() == {"energy"} | others[method]
    model.train()
    assert float(model.loss(batch).total.detach()) != float(losses[0].total.detach())


def test_noise_in_what_is_certain_is_not_in_what_is_true(monkeypatch):
    blurred = []

    def record(latents, max_std):
        blurred.append(max_std)
        return blur(latents, max_std)

    monkeypatch.setattr("speechnar.models.tts.ardit_one_step.blur", record)
    model, batch = make_distillation("energy", history_noise=0.9), make_batch()
    nn.init.zeros_(model.tts.ardit.output.weight)
    nn.init.zeros_(model.tts.ardit.output.bias)  # samples are the noise, whatever is certain
    losses = []
    for noise in (0.9, 0.0):
        config = model.config.tts.ardit.model_copy(update={"history_noise": noise})
        model.config = model.config.model_copy(update={"tts": model.config.tts.model_copy(update={"ardit": config})})
        torch.manual_seed(4)
        losses.append(float(model.student_loss(batch).parts["energy"]))
    assert blurred == [0.9]
    assert losses[0] == pytest.approx(losses[1])


def test_teachers_have_no_dropout():
    model = make_distillation("matching")
    assert model.tts.durations.training
    assert not any(part.training for net in (model.tts.ardit, model.teacher, model.fake) for part in net.modules())


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpus")
    batch = voices([16000, 12800, 9600] * 4)
    utterances = []
    for i, (wav, length) in enumerate(zip(batch.wav, batch.wav_lens.tolist(), strict=True)):
        path = folder / f"voice{i:02d}.wav"
        soundfile.write(path, wav[:length].numpy(), 16000)
        seconds = length / 16000
        utterances.append(Utterance(path.stem, path, "aba", path.stem, seconds, durations=(0.1, seconds - 0.3, 0.2)))
    write_kaldi_dir(folder / "train", utterances[:9])
    write_kaldi_dir(folder / "dev", utterances[9:])
    TOKENIZER.save(folder / "tokens")
    torch.manual_seed(0)
    tts = Tts(TtsConfig.debug(), TOKENIZER.vocab_size)
    assert isinstance(tts.codec, MelPca)
    tts.codec.fit([batch])
    nn.init.normal_(tts.ardit.output.weight, std=0.05)
    save_model(folder / "tts", tts, TOKENIZER)
    save_model(folder / "codec", tts.codec, TOKENIZER)
    save_model(folder / "vocoder", Vocos(tts.config.vocoder), TOKENIZER)
    return folder


def run_config(corpus, method, init_from, max_steps=12) -> RunConfig:
    values = {
        "model": {**TtsDistillationConfig.debug().model_dump(mode="json"), "method": method},
        "data": {"train": str(corpus / "train"), "dev": str(corpus / "dev"), "batch_seconds": 4.0, "num_buckets": 2},
        "train": {
            "optim": {"lr": 2e-3, "schedule": {"kind": "inv_sqrt", "warmup_steps": 3}},
            "max_steps": max_steps,
            "device": "cpu",
            "ema_decay": 0.8,
            "log_every": 3,
            "save_every": 1,
            "validate_every": 6,
        },
        "tokenizer": str(corpus / "tokens"),
        "init_from": [str(corpus / name) for name in init_from],
        "average": 1,
    }
    return parse_config(values, RunConfig)


@pytest.mark.parametrize(
    ("method", "init_from"), [("regression", ["tts"]), ("matching", ["tts"]), ("energy", ["codec", "vocoder"])]
)
def test_a_run_leaves_an_ordinary_model_of_text_to_speech(corpus, tmp_path, method, init_from):
    result = run_training(run_config(corpus, method, init_from), tmp_path)
    assert result.nan_steps == 0
    valid = [entry for entry in result.history if entry["kind"] == "valid"]
    if method == "regression":  # the teacher knows nothing, so that repeating it need not score well
        assert valid[1]["parts"]["regression"] < valid[0]["parts"]["regression"]
    if method == "energy":
        assert valid[1]["loss"] < valid[0]["loss"]
    loaded = load_model(tmp_path / "model").model
    assert isinstance(loaded, Tts)
    start = load_model(corpus / "tts").model
    frozen = ["codec.", "vocoder."] + (["durations."] if method != "energy" else [])
    for name, weight in loaded.state_dict().items():
        if name.startswith("vocoder.") and method == "energy":
            continue
        assert torch.equal(weight, start.state_dict()[name]) == any(map(name.startswith, frozen)) or not weight.any()
    assert (tmp_path / "model/README.md").read_text().startswith("# tts, ")


def test_teacher_and_fake_start_as_the_student_and_the_teacher_stays(corpus, tmp_path):
    run_training(run_config(corpus, "matching", ["tts"], max_steps=2), tmp_path)
    weights = torch.load(tmp_path / "checkpoints/last.pt", weights_only=True)["model"]
    start = load_model(corpus / "tts").model.ardit.state_dict()
    assert all(torch.equal(weights[f"teacher.{name}"], weight) for name, weight in start.items())
    for part in ("fake.", "tts.ardit."):
        moved = torch.cat([(weights[part + name] - weight).flatten() for name, weight in start.items()])
        assert 0 < moved.abs().max() < 0.02  # a few steps of the learning rate


@pytest.mark.slow
def test_a_run_of_matching_resumes_bit_for_bit(corpus, tmp_path):
    def run(folder, max_steps):
        history = run_training(run_config(corpus, "matching", ["tts"], max_steps), tmp_path / folder).history
        return [(entry["step"], entry["parts"]) for entry in history if entry["kind"] == "train"]

    whole = run("whole", 6)
    for step in (1, 4):
        run("steps", step)
    assert run("steps", 6) == whole
    last = [torch.load(tmp_path / name / "checkpoints/last.pt", weights_only=True) for name in ("whole", "steps")]
    assert all(torch.equal(last[0]["model"][name], weight) for name, weight in last[1]["model"].items())


def test_a_teacher_is_needed_where_there_is_something_to_repeat(corpus, tmp_path):
    with pytest.raises(ConfigError, match=r"kind tts: TtsDistillation does not train its tts\.ardit itself"):
        run_training(run_config(corpus, "matching", ["codec", "vocoder"]), tmp_path)
