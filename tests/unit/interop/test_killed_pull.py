"""Processes that are killed while they fetch or convert, and processes that do so at the same time."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.unit import published
from tests.unit.loopback_hub import serve

ROOT = Path(__file__).parents[3]
NAME = "espnet/owsm_ctc_v3.1_1B"
STEP = 9
"""Of the some hundred things that are done to files, each ninth is the last one of a process."""


@pytest.mark.slow  # some twenty processes pull a model
@pytest.mark.timeout(1500)  # seconds of computing, but of a machine that may be busy
@pytest.mark.skipif(not hasattr(os, "fork"), reason="children are forked")
def test_whatever_is_killed_the_next_call_recovers_and_two_at_once_convert_once(tmp_path):
    with serve() as hub:
        hub.add(NAME, published.espnet())
        environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("HF_")},
            "HF_HOME": str(tmp_path / "hf"),
            "HF_ENDPOINT": hub.url,
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": str(ROOT),
        }
        command = [sys.executable, "-m", "tests.unit.interop.killed_pull", NAME, str(STEP)]
        with subprocess.Popen(
            command,
            cwd=ROOT,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            first, second, both = (process.stdout.readline() for _ in range(3))
            assert both == "both\n", process.communicate()[1]
            assert first == second
            fetched = hub.fetched()
            assert len(fetched) == len(set(fetched)) == 4, "two at once fetch and convert once"
            hub.requests.clear()
            out, err = process.communicate("go on\n")
        assert process.returncode == 0, err
        *lines, last = out.splitlines()
        assert int(last.split()[1]) > 7, "killed at many moments"
        assert {line for line in lines} == {first.strip()}, "the model is the same every time"
        assert "model.safetensors" in json.loads(first)["files"]
        assert any("#bytes=" in path for path in hub.fetched()), "downloads are continued"
