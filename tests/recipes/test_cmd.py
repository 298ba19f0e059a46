"""What training and decoding of a recipe start with, here, on Slurm and on Ray."""

import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TORCHRUN = ["python3", "-m", "torch.distributed.run"]


def commands(tmp_path, **environment):
    script = f'set -euo pipefail; . "{ROOT}/recipes/shared/cmd.sh"; echo "${{train_cmd[*]}}"; echo "${{decode_cmd[*]}}"'
    given = {"PYTHON": "python3", "PATH": "/usr/bin:/bin", **environment}
    run = subprocess.run(["bash", "-c", script], check=False, capture_output=True, text=True, cwd=tmp_path, env=given)
    return run, [line.split() for line in run.stdout.splitlines()]


def test_here_nothing_is_needed(tmp_path):
    assert commands(tmp_path)[1] == [[], []]
    train, decode = commands(tmp_path, PROCESSES="4")[1]
    assert train == [*TORCHRUN, "--standalone", "--nproc-per-node=4", "--no-python"]
    assert decode == []


def test_slurm(tmp_path):
    train, decode = commands(tmp_path, RUN_ON="slurm", MACHINES="8", PROCESSES="8", MASTER="node1")[1]
    assert train[:4] == ["srun", "--nodes=8", "--ntasks-per-node=1", "--gres=gpu:8"]
    assert train[4:7] == TORCHRUN
    assert "--rdzv-endpoint=node1:29500" in train
    assert decode[0] == "srun"


def test_ray(tmp_path):
    train, decode = commands(tmp_path, RUN_ON="ray", PROCESSES="2")[1]
    assert train[:5] == ["ray", "job", "submit", "--entrypoint-num-gpus=2", "--"]
    assert train[-1] == "--no-python"
    assert decode[:3] == ["ray", "job", "submit"]


def test_words_of_ones_own_win(tmp_path):
    train, decode = commands(tmp_path, RUN_ON="slurm", TRAIN_CMD="nice -n 5", DECODE_CMD="time")[1]
    assert (train, decode) == (["nice", "-n", "5"], ["time"])
    (tmp_path / "cmd.sh").write_text("train_cmd=(mine)")
    assert commands(tmp_path)[1][0] == ["mine"]


@pytest.mark.parametrize("environment", [{"RUN_ON": "moon"}, {"RUN_ON": "ray", "MACHINES": "2"}, {"MACHINES": "2"}])
def test_what_cannot_be_is_refused(environment, tmp_path):
    run, _ = commands(tmp_path, **environment)
    assert run.returncode != 0
    assert run.stderr
