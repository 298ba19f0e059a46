"""``--dry-run``: what the papers' recipes would run, what it would take, and that nothing is done."""

import json
import re
import subprocess
import sys

import pytest

from recipes.shared.plan import Cost, shown_hours
from speechnar.config import load_config
from speechnar.train.run import RunConfig
from tests.recipes.test_recipes import RECIPES, run, run_well

RESULTS = RECIPES.parent / "benchmarks" / "results"
ALL_960 = ("--parts", "train-clean-100 train-clean-360 train-other-500")
PLANS = {
    "librispeech/asr": ALL_960,
    "aishell1/asr": (),
    "mustc/st": ("--corpus", "mustc"),
    "libritts/tts": ("--judge", "judge", "--verifier", "verifier"),
    "audiocaps/audio": ("--corpus", "audiocaps"),
    "owsm/s2t": ("--corpus_librispeech", "A", "--corpus_aishell1", "B", "--corpus_mustc", "deu=C",
                 "--more", "others/train"),
}  # fmt: skip


def plan_of(recipe, tmp_path, *arguments):
    places = ["--data", str(tmp_path / "data"), "--exp", str(tmp_path / "exp"), "--downloads", str(tmp_path / "dl")]
    return run_well(recipe, "--dry-run", *places, *arguments)


@pytest.mark.parametrize("recipe", PLANS)
def test_every_command_has_its_cost_and_the_paper_its_number(recipe, tmp_path):
    out = plan_of(recipe, tmp_path, *PLANS[recipe])
    for stage in range(1, 9):
        assert f"stage {stage}: " in out
    lines = out.splitlines()
    commands = [index for index, line in enumerate(lines) if re.match(r"  \S", line)]
    assert len(commands) > 8
    for index in commands:
        cost = lines[index + 1]
        assert re.search(r"(of a CPU thread|of unknown size).*GB of memory, .* GB of disk", cost), lines[index]
    assert "not known" not in out and "was not measured" not in out
    assert re.search(r"the paper \(.*\): .*\d", out)
    assert not list(tmp_path.iterdir())


def test_hours_follow_from_what_was_measured(tmp_path):
    config = "conf/train_cassnat.yaml"
    out = plan_of("librispeech/asr", tmp_path, *ALL_960, "--config", config, "--stage", "4", "--stop_stage", "4")
    step = json.loads((RESULTS / "scaling_recipes.json").read_text())["steps"][f"librispeech/asr/{config}"]
    run_config = load_config(RECIPES / "librispeech/asr" / config, RunConfig)
    hours = 960.9 * run_config.train.max_epochs * step["cpu_s_a_second"]
    assert f"{hours:,.0f} h of a CPU thread" in out
    machine = json.loads((RESULTS / "scaling.json").read_text())["machine"]
    on_device = 960.9 * run_config.train.max_epochs * step["flops_a_second"] / machine["flops"] / machine["used_share"]
    assert f"or {shown_hours(on_device)} on 1 {machine['name']}" in out
    assert f"{step['weights'] / 1e6:,.0f} M weights" in out
    part = plan_of("librispeech/asr", tmp_path, "--config", config, "--stage", "4", "--stop_stage", "4")
    assert f"{hours * 100.6 / 960.9:,.0f} h of a CPU thread" in part  # of the smallest part alone


def test_what_is_there_stays_as_it_is(tmp_path):
    codec = tmp_path / "exp" / "codec"
    codec.mkdir(parents=True)
    (codec / "config.json").write_text("{}")
    given = ("--corpus", "audiocaps", "--codec", "none", "--stage", "3", "--stop_stage", "3")
    plan_of("audiocaps/audio", tmp_path, *given)
    assert (codec / "config.json").read_text() == "{}"
    assert [path.name for path in tmp_path.iterdir()] == ["exp"]


def test_a_recipe_of_no_known_scale_lists_its_commands(tmp_path):
    out = run_well("an4/asr", "--dry-run", "--data", str(tmp_path / "data"), "--exp", str(tmp_path / "exp"))
    assert "-m speechnar train conf/train.yaml" in out
    assert "stage 8: export" in out
    assert not list(tmp_path.iterdir())


def test_what_is_wrong_is_told_without_a_plan():
    finished = run("mustc/st", "--dry-run", "--stage", "0")
    assert finished.returncode == 2
    assert finished.stdout == ""


def test_hours_are_told_in_the_unit_that_fits():
    assert [shown_hours(hours) for hours in (0.001, 0.5, 1.5, 12345.6)] == ["4 s", "30 min", "1.5 h", "12,346 h"]
    assert Cost().cpu_h is None


def test_prefixes_of_a_cluster_are_shown(tmp_path, monkeypatch):
    for name, value in {"RUN_ON": "slurm", "MACHINES": "8", "PROCESSES": "8", "MASTER": "node1"}.items():
        monkeypatch.setenv(name, value)
    out = plan_of("aishell1/asr", tmp_path, "--stage", "4", "--stop_stage", "6")
    assert "srun --nodes=8 --ntasks-per-node=1 --gres=gpu:8" in out
    assert "on 64 H200" in out
    assert f"{sys.executable} -m speechnar decode" in out
    assert subprocess.run(["bash", "-c", "type would_run"], check=False, capture_output=True).returncode != 0
