import json
import os
import pickle
import random

import numpy as np
import pytest
import torch

from speechnar.errors import CheckpointError
from speechnar.train import checkpoint as ckpt
from tests.unit.disk import file_size_limit


class Bomb:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_round_trip_keeps_tensors_and_plain_values(tmp_path):
    payload = {"x": torch.arange(3), "nested": {"list": [1, 2.5, None, "a"]}}
    ckpt.save_checkpoint(tmp_path / "a.pt", payload)
    loaded = ckpt.load_checkpoint(tmp_path / "a.pt")
    assert torch.equal(loaded["x"], payload["x"])
    assert loaded["nested"] == payload["nested"]
    assert [path.name for path in tmp_path.iterdir()] == ["a.pt"]


@pytest.mark.parametrize("as_zip", [True, False])
def test_malicious_pickle_is_refused_and_not_run(tmp_path, as_zip):
    path, victim = tmp_path / "evil.pt", tmp_path / "executed"
    if as_zip:
        torch.save({"model": Bomb(victim)}, path)
    else:
        path.write_bytes(pickle.dumps({"model": Bomb(victim)}))
    with pytest.raises(CheckpointError):
        ckpt.load_checkpoint(path)
    assert not victim.exists()


@pytest.mark.parametrize("content", [b"", b"hello", b"PK\x03\x04 torn"])
def test_torn_and_foreign_files_are_named(tmp_path, content):
    path = tmp_path / "torn.pt"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"torn\.pt"):
        ckpt.load_checkpoint(path)
    with pytest.raises(CheckpointError, match="cannot be read"):
        ckpt.load_checkpoint(tmp_path / "absent.pt")


def test_failed_write_leaves_the_previous_checkpoint(tmp_path):
    path = tmp_path / "last.pt"
    ckpt.save_checkpoint(path, {"x": torch.ones(1)})
    with pytest.raises((pickle.PicklingError, AttributeError, TypeError)):
        ckpt.save_checkpoint(path, {"x": lambda: None})
    assert torch.equal(ckpt.load_checkpoint(path)["x"], torch.ones(1))


def test_flipped_bytes_are_noticed(tmp_path):
    path = tmp_path / "last.pt"
    ckpt.save_checkpoint(path, {"x": torch.randn(40_000)})
    content = bytearray(path.read_bytes())
    for place in range(20_000, 60_000, 10):
        content[place] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"last\.pt: is damaged \(the sum of '.*data/0' is another\)"):
        ckpt.load_checkpoint(path)
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(CheckpointError, match=r"last\.pt"):
        ckpt.load_checkpoint(path)


def test_a_damaged_checkpoint_gives_way_to_the_one_before_it(tmp_path, caplog):
    assert ckpt.load_last(tmp_path) is None
    last, previous = tmp_path / ckpt.LAST, tmp_path / ckpt.PREVIOUS
    for step in (1, 2):
        ckpt.save_checkpoint(last, {"step": step, "x": torch.ones(1000)}, previous=previous)
    assert ckpt.load_last(tmp_path)[1]["step"] == 2
    last.write_bytes(last.read_bytes()[:500])
    path, payload = ckpt.load_last(tmp_path)
    assert (path, payload["step"]) == (previous, 1)
    assert "last.pt" in caplog.text and "the run goes on from the one before it" in caplog.text
    last.unlink()  # killed between two renamings
    assert ckpt.load_last(tmp_path)[1]["step"] == 1
    previous.write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"none before it is whole; move .* elsewhere"):
        ckpt.load_last(tmp_path)


def test_a_full_disk_is_named_and_leaves_what_was_there(tmp_path):
    path = tmp_path / "last.pt"
    ckpt.save_checkpoint(path, {"x": torch.ones(1)})
    with (
        file_size_limit(10_000),
        pytest.raises(CheckpointError, match=r"last\.pt: cannot be written \(.*continues"),
    ):
        ckpt.save_checkpoint(path, {"x": torch.ones(100_000)})
    assert torch.equal(ckpt.load_checkpoint(path)["x"], torch.ones(1))
    assert list(tmp_path.iterdir()) == [path]


def test_average_is_the_mean_and_prefers_the_running_average(tmp_path):
    ckpt.save_checkpoint(tmp_path / "a.pt", {"model": {"w": torch.tensor([1.0, 3.0]), "n": torch.tensor(3)}})
    ckpt.save_checkpoint(
        tmp_path / "b.pt",
        {"model": {"w": torch.full((2,), 99.0)}, "ema": {"w": torch.tensor([2.0, 5.0]), "n": torch.tensor(9)}},
    )
    mean = ckpt.average_checkpoints([tmp_path / "a.pt", tmp_path / "b.pt"])
    assert mean["w"].tolist() == [1.5, 4.0]
    assert mean["w"].dtype == torch.float32
    assert mean["n"].item() == 3


def test_average_of_different_models_is_refused(tmp_path):
    ckpt.save_checkpoint(tmp_path / "a.pt", {"model": {"w": torch.ones(2)}})
    ckpt.save_checkpoint(tmp_path / "b.pt", {"model": {"w": torch.ones(3)}})
    with pytest.raises(CheckpointError, match="another model"):
        ckpt.average_checkpoints([tmp_path / "a.pt", tmp_path / "b.pt"])
    with pytest.raises(CheckpointError, match="at least one"):
        ckpt.average_checkpoints([])
    ckpt.save_checkpoint(tmp_path / "c.pt", {"model": {"w": 1}})
    with pytest.raises(CheckpointError, match="no model weights"):
        ckpt.average_checkpoints([tmp_path / "c.pt"])


def test_publishing_keeps_the_best_and_the_last_only(tmp_path):
    folder = tmp_path / ckpt.FOLDER
    folder.mkdir()
    for name in ("last.pt", "step-00000001.pt", "step-00000002.pt", "step-00000003.pt.tmp"):
        (folder / name).touch()
    ckpt.publish_best(folder, [{"step": 2, "metrics": {"loss": 1.0}}])
    assert sorted(path.name for path in folder.iterdir()) == ["best.json", "last.pt", "step-00000002.pt"]
    assert ckpt.find_best(tmp_path, 3) == [folder / "step-00000002.pt"]
    assert ckpt.find_last(tmp_path) == folder / "last.pt"


@pytest.mark.parametrize("content", [None, "not json", json.dumps([{"epoch": 1}]), json.dumps([{"step": "../../x"}])])
def test_unreadable_list_of_best_steps_is_an_error(tmp_path, content):
    (tmp_path / ckpt.FOLDER).mkdir()
    if content is not None:
        (tmp_path / ckpt.FOLDER / ckpt.BEST).write_text(content)
    with pytest.raises(CheckpointError, match=r"best\.json"):
        ckpt.find_best(tmp_path)
    assert ckpt.find_last(tmp_path) is None


def test_random_state_survives_a_checkpoint(tmp_path):
    def draw():
        return random.random(), np.random.rand(), torch.rand(1).item()

    random.gauss(0, 1)
    np.random.randn()
    ckpt.save_checkpoint(tmp_path / "rng.pt", {"rng": ckpt.rng_state()})
    first = draw(), random.gauss(0, 1), np.random.randn()
    ckpt.set_rng_state(ckpt.load_checkpoint(tmp_path / "rng.pt")["rng"])
    assert (draw(), random.gauss(0, 1), np.random.randn()) == first
