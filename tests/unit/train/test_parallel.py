"""Several processes, whole or in pieces, train to the losses of one; blocks computed again change nothing."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch

from speechnar.errors import ConfigError
from speechnar.models.asr.owsm_ctc import OwsmCtcConfig
from speechnar.nn.encoder import Encoder
from speechnar.train.parallel import blocks_of, checkpoint_blocks
from tests.unit.train.many import train_tiny
from tests.unit.train.toys import ToyModel, toy_config

TOLERANCE = 2e-4
"""Relative, of losses after a dozen updates: sums over processes are added in another order."""


def launch(exp, processes, *arguments, wait=True):
    """Run `tests.unit.train.many` on several CPU processes."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    command = [*launcher, "-m", "tests.unit.train.many", str(exp), *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    job = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True, start_new_session=True)
    if wait:
        _, told = job.communicate(timeout=500)
        assert job.returncode == 0, told[-3000:]
    return job


def history(exp):
    path = exp / "log.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def losses(exp, kind="train"):
    return [entry["loss"] for entry in history(exp) if entry["kind"] == kind]


@pytest.mark.slow  # each job imports torch in every process
@pytest.mark.parametrize(("processes", "parallel"), [(2, "ddp"), (4, "ddp"), (2, "fsdp")])
def test_many_processes_train_to_the_losses_of_one(tmp_path, processes, parallel):
    train_tiny(tmp_path / "one", grad_accum=processes)
    launch(tmp_path / "many", processes, f"parallel={parallel}")
    assert losses(tmp_path / "many") == pytest.approx(losses(tmp_path / "one"), rel=TOLERANCE)
    assert losses(tmp_path / "many", "valid") == pytest.approx(losses(tmp_path / "one", "valid"), rel=TOLERANCE)


@pytest.mark.slow  # as above
@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_it_goes_on_exactly_with_as_many_and_says_so_with_others(tmp_path, parallel):
    launch(tmp_path / "whole", 2, f"parallel={parallel}", "dropout")
    launch(tmp_path / "cut", 2, f"parallel={parallel}", "dropout", "max_steps=6")
    launch(tmp_path / "cut", 2, f"parallel={parallel}", "dropout")
    assert losses(tmp_path / "cut") == losses(tmp_path / "whole")
    if parallel == "ddp":
        launch(tmp_path / "other", 2, "dropout", "max_steps=6")
        job = launch(tmp_path / "other", 3, "dropout", wait=False)
        _, told = job.communicate(timeout=500)
        assert job.returncode == 0
        assert "was left by 2 processes and goes on with 3" in told


@pytest.mark.slow  # as above
def test_the_end_of_a_rank_ends_the_job_with_its_name(tmp_path):
    job = launch(tmp_path / "exp", 2, "max_steps=100000", wait=False)
    try:
        while not (tmp_path / "exp" / "pid.1").is_file() or len(history(tmp_path / "exp")) < 2:
            assert job.poll() is None
            time.sleep(0.1)
        killed = time.monotonic()
        os.kill(int((tmp_path / "exp" / "pid.1").read_text()), signal.SIGKILL)
        _, told = job.communicate(timeout=120)
    finally:
        if job.poll() is None:
            os.killpg(job.pid, signal.SIGKILL)
    assert time.monotonic() - killed < 60
    assert job.returncode != 0
    assert "rank      : 1 (local_rank: 1)" in told or "rank 1" in told
    launch(tmp_path / "exp", 2, "max_steps=12")


@pytest.mark.slow  # as above
def test_utterances_of_any_length_on_two_ranks_end(tmp_path):
    launch(tmp_path / "exp", 2, "utterances=101", "longest=15", "epochs=2")
    assert history(tmp_path / "exp")[-1]["epoch"] == 1


def test_blocks_computed_again_change_neither_loss_nor_gradient():
    torch.manual_seed(0)
    encoder = Encoder(OwsmCtcConfig.debug().encoder, num_features=80)
    feats, lens = torch.randn(2, 64, 80), torch.tensor([64, 40])

    def gradients():
        encoder.zero_grad()
        torch.manual_seed(1)
        encoder(feats, lens)[0].square().mean().backward()
        return [p.grad.clone() for p in encoder.parameters() if p.grad is not None]

    expected = gradients()
    calls = []
    for block in blocks_of(encoder):
        block.register_forward_hook(lambda *_: calls.append(1))
    checkpoint_blocks(encoder)
    found = gradients()
    assert len(calls) == len(blocks_of(encoder)) > 0
    for left, right in zip(found, expected, strict=True):
        torch.testing.assert_close(left, right, rtol=0, atol=0)


def test_what_cannot_be_computed_again_is_told():
    with pytest.raises(ConfigError, match="no blocks"):
        checkpoint_blocks(ToyModel())
    norm = torch.nn.Module()
    norm.layers = torch.nn.ModuleList([torch.nn.BatchNorm1d(3)])
    with pytest.raises(ConfigError, match="batch norms"):
        checkpoint_blocks(norm)


def test_pieces_and_averages_exclude_each_other():
    with pytest.raises(ValueError, match="ema_decay"):
        toy_config(parallel="fsdp")
