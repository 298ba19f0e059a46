import json
import signal
import subprocess
import sys
import time
from multiprocessing import get_context

import numpy as np
import pytest
import torch

from speechnar.errors import CheckpointError, ConfigError, DataError, SpeechnarError
from speechnar.train.checkpoint import find_best, load_checkpoint, save_checkpoint
from speechnar.train.loop import TrainConfig, build_accelerator, cpu_computes_bf16, train
from tests.unit.train.toys import ToyBatch, ToyData, ToyDuel, ToyModel, run_plain_toy, run_toy, toy_config


def untimed(history):
    return [{name: value for name, value in entry.items() if name != "seconds"} for entry in history]


def assert_same_checkpoint(left, right):
    left, right = load_checkpoint(left), load_checkpoint(right)
    for name in ("model", "ema"):
        assert all(torch.equal(left[name][key], right[name][key]) for key in left[name])
    for key, moments in left["optimizers"]["all"]["state"].items():
        assert all(torch.equal(moments[name], right["optimizers"]["all"]["state"][key][name]) for name in moments)
    assert torch.equal(left["rng"][0]["torch"], right["rng"][0]["torch"])
    assert left["state"]["data"] == right["state"]["data"]
    assert left["state"]["best"] == right["state"]["best"]


def test_killed_run_resumes_bit_for_bit(tmp_path):
    whole_model, whole = run_toy(tmp_path / "whole")
    process = get_context("fork").Process(target=run_toy, args=(tmp_path / "killed", 0.02))
    process.start()
    log, deadline = tmp_path / "killed" / "log.jsonl", time.monotonic() + 60
    while not (log.exists() and '"step": 15,' in log.read_text()):  # logged, and not yet in a checkpoint
        assert process.is_alive(), "the run ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    killed_at = load_checkpoint(tmp_path / "killed" / "checkpoints" / "last.pt")["state"]["step"]
    assert 0 < killed_at < 40

    model, resumed = run_toy(tmp_path / "killed")
    assert untimed(resumed.history) == untimed(whole.history)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), whole_model.parameters(), strict=True))
    assert_same_checkpoint(tmp_path / "killed/checkpoints/last.pt", tmp_path / "whole/checkpoints/last.pt")
    lines = [json.loads(line) for line in (tmp_path / "killed/log.jsonl").read_text().splitlines()]
    assert untimed(lines) == untimed(whole.history)


def test_resumes_from_every_step_whatever_was_prefetched(tmp_path):
    def run(name, max_steps):
        torch.manual_seed(0)
        config = toy_config(max_steps=max_steps, validate_every=1000, prefetch=4)
        result = train(ToyModel(), ToyData(), ToyData(3), config, tmp_path / name)
        return [entry for entry in untimed(result.history) if entry["kind"] == "train"]

    whole = run("whole", 9)  # two epochs and a half
    for step in range(1, 9):
        run("steps", step)
    assert run("steps", 9) == whole


def test_finished_run_is_not_trained_again(tmp_path):
    _, first = run_toy(tmp_path)
    before = (tmp_path / "checkpoints/last.pt").read_bytes()
    _, again = run_toy(tmp_path)
    assert again.history == first.history
    assert (tmp_path / "checkpoints/last.pt").read_bytes() == before


def test_resuming_with_another_model_is_refused(tmp_path):
    run_toy(tmp_path)
    with pytest.raises(CheckpointError, match="not of this model"):
        train(ToyModel(norm=False), ToyData(), ToyData(3), toy_config(), tmp_path)


def test_nan_steps_are_skipped_counted_and_leave_no_trace(tmp_path):
    spoiled = {(0, 1): float("nan"), (1, 0): float("inf")}
    config = toy_config(max_steps=None, max_epochs=2, grad_accum=1, validate_every=100, log_every=1)
    torch.manual_seed(0)
    model = ToyModel()
    result = train(model, ToyData(spoiled=spoiled), ToyData(3), config, tmp_path)
    assert result.nan_steps == 2
    assert result.step == 14
    assert all(value.isfinite().all() for value in model.state_dict().values())
    valid = result.history[-1]
    assert np.isfinite(valid["loss"])
    logged = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [entry["step"] for entry in logged if entry["loss"] is None] == [2, 8]


def test_nan_step_changes_no_weight(tmp_path):
    config = toy_config(max_steps=1, grad_accum=1)
    torch.manual_seed(0)
    model = ToyModel()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    train(model, ToyData(spoiled={(0, 0): float("nan")}), ToyData(3), config, tmp_path)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_too_many_nan_steps_end_the_run(tmp_path):
    spoiled = {(0, index): float("nan") for index in range(7)}
    with pytest.raises(SpeechnarError, match="max_nan_steps allows 3"):
        train(ToyModel(), ToyData(spoiled=spoiled), ToyData(3), toy_config(max_nan_steps=3), tmp_path)


def test_accumulation_equals_one_larger_batch(tmp_path):
    class Merged(ToyData):
        def batches(self, epoch):
            small = list(super().batches(epoch))  # 3, 4 and 5 rows
            yield ToyBatch(torch.cat([b.x for b in small]), torch.cat([b.y for b in small]))

    models = []
    for name, data, grad_accum in (("small", ToyData(3), 3), ("large", Merged(3), 1)):
        torch.manual_seed(0)
        model = ToyModel(dropout=0.0, norm=False)
        config = toy_config(max_steps=5, grad_accum=grad_accum, clip_norm=0.5, log_every=1)
        result = train(model, data, ToyData(3), config, tmp_path / name)
        models.append((model, result))
    (small, small_result), (large, large_result) = models
    for left, right in zip(small.parameters(), large.parameters(), strict=True):
        torch.testing.assert_close(left, right, rtol=1e-5, atol=1e-7)
    for left, right in zip(small_result.history, large_result.history, strict=True):
        assert left["loss"] == pytest.approx(right["loss"], rel=1e-5)


@pytest.mark.slow
def test_two_processes_equal_one_that_accumulates(tmp_path):
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [*launcher, "-m", "tests.unit.train.toys", str(tmp_path / "two"), "plain"]
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    one = run_plain_toy(tmp_path / "one", grad_accum=2)
    lines = [json.loads(line) for line in (tmp_path / "two/log.jsonl").read_text().splitlines()]
    assert [(entry["step"], entry["kind"]) for entry in lines] == [(e["step"], e["kind"]) for e in one.history]
    assert [entry["loss"] for entry in lines] == pytest.approx([entry["loss"] for entry in one.history], rel=1e-5)


@pytest.mark.slow
def test_turns_of_two_processes_equal_those_of_one_that_accumulates(tmp_path):
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [*launcher, "-m", "tests.unit.train.toys", str(tmp_path / "two"), "duel"]
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    one = train(ToyDuel(dropout=0.0), ToyData(), ToyData(3), toy_config(grad_accum=2), tmp_path / "one")
    lines = [json.loads(line) for line in (tmp_path / "two/log.jsonl").read_text().splitlines()]
    assert [entry["loss"] for entry in lines] == pytest.approx([entry["loss"] for entry in one.history], rel=1e-5)


def value(player):
    return float(player["x"].detach())


def test_players_in_turns_reach_their_equilibrium_and_are_logged_apart(tmp_path):
    model = ToyDuel()
    optim = {"lr": 5e-2, "schedule": {"kind": "inv_sqrt", "warmup_steps": 10}}
    result = train(model, ToyData(), ToyData(3), toy_config(max_steps=300, optim=optim), tmp_path)
    assert value(model.first) == pytest.approx(1, abs=0.02)
    assert value(model.second) == pytest.approx(1, abs=0.02)
    first = result.history[0]
    assert first["parts"].keys() == {"first/loss", "first/error", "second/loss", "second/error"}
    assert first["loss"] == pytest.approx(first["parts"]["first/loss"] + first["parts"]["second/loss"])
    assert first["first/grad_norm"] > 0
    assert first["second/grad_norm"] > 0
    assert result.history[-1]["parts"].keys() == {"error"}


def test_a_turn_changes_its_own_parameters_only_and_the_next_sees_them_changed(tmp_path):
    """AdamW's first step is the learning rate, whatever the gradient; the first player has none where both are 0."""
    optim = {"lr": 0.5, "schedule": {"kind": "inv_sqrt", "warmup_steps": 1}}
    model = ToyDuel(dropout=0.0)
    train(model, ToyData(), ToyData(3), toy_config(max_steps=1, optim=optim), tmp_path)
    assert (value(model.first), value(model.second)) == (0.0, pytest.approx(0.5))
    # Listed first, the second player moves before the first one looks.
    model.turns = lambda: ToyDuel.turns(model)[::-1]
    torch.nn.init.zeros_(model.second["x"])
    train(model, ToyData(), ToyData(3), toy_config(max_steps=1, optim=optim), tmp_path / "reversed")
    assert (value(model.first), value(model.second)) == (pytest.approx(0.5), pytest.approx(0.5))
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())


def test_a_turn_that_is_not_finite_changes_nothing_while_others_go_on(tmp_path):
    model = ToyDuel()
    torch.nn.init.constant_(model.second["x"], 5.0)
    spoiled = {(0, index): float("nan") for index in range(7)}
    config = toy_config(max_steps=None, max_epochs=1, grad_accum=1, clip_norm=None)
    result = train(model, ToyData(spoiled=spoiled), ToyData(3), config, tmp_path)
    assert result.nan_steps == 7
    assert value(model.second) == 5.0
    assert value(model.first) > 0.01
    assert np.isnan(result.history[0]["parts"]["second/loss"])
    assert np.isfinite(result.history[0]["parts"]["first/loss"])


def test_a_run_of_turns_resumes_bit_for_bit(tmp_path):
    def run(name, max_steps):
        torch.manual_seed(0)
        model = ToyDuel()
        config = toy_config(max_steps=max_steps, validate_every=1000)
        result = train(model, ToyData(), ToyData(3), config, tmp_path / name)
        assert [value(model.first), value(model.second)] != [0.0, 0.0]
        return [entry for entry in untimed(result.history) if entry["kind"] == "train"]

    whole = run("whole", 9)
    for step in (1, 2, 5, 8):
        run("steps", step)
    assert run("steps", 9) == whole
    payloads = [load_checkpoint(tmp_path / name / "checkpoints/last.pt") for name in ("whole", "steps")]
    for name in ("first", "second"):
        left, right = (payload["optimizers"][name]["state"][0] for payload in payloads)
        assert all(torch.equal(left[key], right[key]) for key in ("step", "exp_avg", "exp_avg_sq"))
    assert all(torch.equal(payloads[0]["model"][key], payloads[1]["model"][key]) for key in payloads[0]["model"])


def test_a_run_begun_before_there_were_turns_resumes(tmp_path):
    def run(name, max_steps):
        torch.manual_seed(0)
        config = toy_config(max_steps=max_steps, validate_every=1000)
        history = untimed(train(ToyModel(), ToyData(), ToyData(3), config, tmp_path / name).history)
        return [entry for entry in history if entry["kind"] == "train"]

    whole = run("whole", 9)
    run("old", 5)
    payload = load_checkpoint(tmp_path / "old/checkpoints/last.pt")
    payload["optimizer"] = payload.pop("optimizers")["all"]
    save_checkpoint(tmp_path / "old/checkpoints/last.pt", payload)
    assert run("old", 9) == whole


def test_without_a_measure_the_newest_weights_are_the_best(tmp_path):
    train(ToyModel(), ToyData(), ToyData(3), toy_config(select="newest", keep_checkpoints=2), tmp_path)
    assert [path.name for path in find_best(tmp_path, 5)] == ["step-00000040.pt", "step-00000030.pt"]


def test_last_group_of_the_run_may_be_short(tmp_path):
    result = train(ToyModel(), ToyData(7), ToyData(3), toy_config(max_steps=None, max_epochs=1), tmp_path)
    assert result.step == 4  # 2 + 2 + 2 + 1 batches


def test_best_checkpoints_are_kept_by_the_chosen_metric(tmp_path):
    wers = iter([0.5, 0.2, 0.4, 0.3])
    config = toy_config(select="wer", keep_checkpoints=2)
    result = train(ToyModel(), ToyData(), ToyData(3), config, tmp_path, evaluate=lambda model: {"wer": next(wers)})
    assert (result.best_step, result.best_metrics["wer"]) == (20, 0.2)
    assert [path.name for path in find_best(tmp_path, 5)] == ["step-00000020.pt", "step-00000040.pt"]
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == [
        "best.json",
        "last.pt",
        "previous.pt",
        "step-00000020.pt",
        "step-00000040.pt",
    ]
    assert (tmp_path / "history.png").read_bytes().startswith(b"\x89PNG")
    assert list((tmp_path / "tensorboard").iterdir())


def test_loss_decides_between_equal_metrics(tmp_path):
    config = toy_config(select="wer", keep_checkpoints=4)
    result = train(ToyModel(), ToyData(), ToyData(3), config, tmp_path, evaluate=lambda model: {"wer": 1.0})
    losses = {entry["step"]: entry["loss"] for entry in result.history if entry["kind"] == "valid"}
    assert result.best_step == min(losses, key=losses.get)


def test_validation_is_the_utterance_mean_of_the_averaged_weights_in_eval_mode(tmp_path):
    seen = []

    def evaluate(model):
        assert not model.training
        assert not torch.is_grad_enabled()
        rows = list(ToyData(3).batches(0))
        losses = [float(((model.net(b.x) - b.y) ** 2).mean()) for b in rows]
        seen.append(np.average(losses, weights=[len(b.x) for b in rows]))
        return {}

    model = ToyModel()
    result = train(model, ToyData(), ToyData(3), toy_config(max_steps=10), tmp_path, evaluate=evaluate)
    assert result.history[-1]["loss"] == pytest.approx(seen[0], rel=1e-5)
    assert model.training
    exported = load_checkpoint(find_best(tmp_path)[0])["model"]
    assert not torch.equal(exported["net.0.weight"], model.net[0].weight)


def test_bf16_trains_float32_weights_near_the_float32_run(tmp_path):
    losses = []
    for precision in ("fp32", "bf16"):
        torch.manual_seed(0)
        model = ToyModel()
        result = train(model, ToyData(), ToyData(3), toy_config(precision=precision, max_steps=8), tmp_path / precision)
        assert all(parameter.dtype == torch.float32 for parameter in model.parameters())
        losses.append(result.history[-1]["loss"])
    assert losses[0] == pytest.approx(losses[1], rel=0.1)
    assert (losses[0] != losses[1]) == cpu_computes_bf16()


@pytest.mark.parametrize("has_bf16", [True, False])
def test_processors_without_bf16_compute_in_fp32_and_say_so(monkeypatch, caplog, has_bf16):
    monkeypatch.setattr("speechnar.train.loop.cpu_computes_bf16", lambda: has_bf16)
    accelerator = build_accelerator(toy_config(precision="bf16", device="cpu"))
    assert accelerator.mixed_precision == ("bf16" if has_bf16 else "no")
    assert ("no bfloat16 arithmetic" in caplog.text) != has_bf16


def test_wrong_uses_are_named(tmp_path):
    with pytest.raises(ConfigError, match="Linear must be a Trainable"):
        train(torch.nn.Linear(1, 1), ToyData(), ToyData(3), toy_config(), tmp_path)
    with pytest.raises(ConfigError, match="select must be one of loss, mse, newest; got wer"):
        train(ToyModel(), ToyData(), ToyData(3), toy_config(select="wer"), tmp_path / "select")
    with pytest.raises(DataError, match="training data has no batch"):
        train(ToyModel(), ToyData(0), ToyData(3), toy_config(), tmp_path / "train")
    with pytest.raises(DataError, match="held-out data has no batch"):
        train(ToyModel(), ToyData(), ToyData(0), toy_config(), tmp_path / "dev")
    with pytest.raises(ValueError, match="max_steps or max_epochs"):
        TrainConfig()
