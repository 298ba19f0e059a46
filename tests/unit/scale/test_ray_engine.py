"""A cluster of three node processes on this machine: the same texts as one process, whatever dies in the middle."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from speechnar.data.corpus import read_corpus
from speechnar.errors import ConfigError, SpeechnarError
from speechnar.scale.journal import JOURNAL, REPORT
from speechnar.scale.run import run_job
from speechnar.scale.stages import Decoding, run_stage
from speechnar.scale.transcribing import TranscribingJob
from tests.unit.data.corpus import make_data_dir
from tests.unit.scale.test_run import texts_of, write_corpus
from tests.unit.tiny import save_tiny_model

ray = pytest.importorskip("ray", reason="Ray is of the extra scale")
pytestmark = pytest.mark.slow  # starts a cluster, whose processes import torch
DEADLINE_S = 400.0


@pytest.fixture(scope="module")
def cluster():
    from ray.cluster_utils import Cluster

    # Few and small objects travel, and nobody looks at a dashboard.
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "object_store_memory": 100 * 2**20})
    yield cluster
    cluster.shutdown()


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return str(save_tiny_model(tmp_path_factory.mktemp("scale") / "model"))


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return write_corpus(tmp_path_factory.mktemp("corpora") / "corpus", 2000)


def lines(path):
    return path.read_bytes().count(b"\n") if path.is_file() else 0


def wait_for(journal, number, driver):
    ends = time.monotonic() + DEADLINE_S
    while lines(journal) < number:
        assert driver.poll() is None, "the driver has ended"
        assert time.monotonic() < ends
        time.sleep(0.02)


def workers_of(cluster):
    """Return the pids of the actors that the raylets of this cluster have started, by those of the raylets."""
    raylets = {info.process.pid for node in cluster.list_all_nodes() for info in node.all_processes.get("raylet", [])}
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            name = (folder / "cmdline").read_bytes()
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
        if name.startswith(b"ray::UnitActor") and parent in raylets:
            found[int(folder.name)] = parent
    return found


def test_a_node_a_worker_and_the_driver_die(cluster, model, corpus, tmp_path):
    nodes = [cluster.add_node(num_cpus=1, object_store_memory=100 * 2**20) for _ in range(2)]
    cluster.wait_for_nodes()
    expected_job = TranscribingJob(model=model, out=tmp_path / "one", device="cpu", precision="fp32", threads=1)
    run_job(expected_job, read_corpus([corpus]))
    out = tmp_path / "many"
    command = [sys.executable, "-m", "speechnar", "transcribe", str(corpus), "-m", model, "-f", "jsonl", "-o", str(out),
               "-d", "cpu", "--precision", "fp32", "--threads", "1", "--engine", "ray",
               "--address", cluster.address]  # fmt: skip
    driver = subprocess.Popen(command)
    try:
        wait_for(out / JOURNAL, 1, driver)
        victim = next(iter(workers_of(cluster)))
        os.kill(victim, signal.SIGKILL)
        wait_for(out / JOURNAL, 2, driver)
        cluster.remove_node(nodes[0], allow_graceful=False)
        wait_for(out / JOURNAL, 4, driver)
    finally:
        driver.kill()
        driver.wait()
    done = lines(out / JOURNAL)
    assert done < 8
    run = subprocess.run(command, check=False, timeout=DEADLINE_S, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    report = json.loads((out / REPORT).read_text())
    assert report["done"] == 2000
    assert 0 < report["done_now"] < 2000
    assert texts_of(out) == texts_of(tmp_path / "one")


def test_workers_that_find_no_place_are_given_nothing(cluster, model, corpus, tmp_path):
    """A machine that has just died is counted for a while."""
    ray.init(address=cluster.address, log_to_driver=False)
    try:
        job = TranscribingJob(model=model, out=tmp_path / "out", device="cpu", threads=1)
        assert run_job(job, read_corpus([corpus])[:40], engine="ray", workers=8, unit_seconds=1.0).done == 40
    finally:
        ray.shutdown()


def test_what_cannot_be_is_told(cluster, model, corpus, tmp_path):
    items = read_corpus([corpus])[:2]
    ray.init(address=cluster.address, log_to_driver=False)
    try:
        job = TranscribingJob(model=str(tmp_path / "none"), out=tmp_path / "out", device="cpu")
        with pytest.raises(SpeechnarError, match="none"):
            run_job(job, items, engine="ray")
        job = TranscribingJob(model=model, out=tmp_path / "out2", device="cpu", threads=99)
        with pytest.raises(ConfigError, match="lower --threads"):
            run_job(job, items, engine="ray")
        with pytest.raises(ConfigError, match="at least 1"):
            run_job(job, items, engine="ray", workers=0)
    finally:
        ray.shutdown()


def test_a_stage_of_a_recipe_is_shared(cluster, model, tmp_path, monkeypatch):
    """Paths are relative to where the recipe is, here and in the workers."""
    monkeypatch.chdir(tmp_path)
    utterances = make_data_dir(Path("data"), 12)
    ray.init(address=cluster.address, log_to_driver=False)
    try:
        for engine in ("local", "ray"):
            stage = Decoding(
                model=model, out=tmp_path / f"{engine}.parts", hyp=tmp_path / engine, device="cpu", threads=1
            )
            report = run_stage(stage, utterances, engine=engine, unit_seconds=1.0)
            assert report.done == 12
    finally:
        ray.shutdown()
    assert Path("ray").read_text() == Path("local").read_text()
    assert len(Path("ray").read_text().splitlines()) == 12
