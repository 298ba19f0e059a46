"""Models come when they are asked for, once, and go when they are idle or others need the room."""

import threading
import time

import pytest

from speechnar.errors import ModelNotFoundError
from speechnar.serve.pool import ModelPool


class Loader:
    def __init__(self) -> None:
        self.names: list[str] = []

    def __call__(self, name: str) -> object:
        time.sleep(0.02)
        self.names.append(name)
        return object()


@pytest.fixture
def folders(tmp_path):
    for name in ("a", "b", "c"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text("{}")
        (tmp_path / name / "model.safetensors").write_bytes(b"x" * 100)
    return {name: str(tmp_path / name) for name in ("a", "b", "c")}


def make(folders, *, idle_s=100.0, max_bytes=1000):
    load = Loader()
    return ModelPool(load, folders, idle_s=idle_s, max_bytes=max_bytes), load


def test_threads_at_once_load_it_once(folders):
    pool, load = make(folders)
    found = []

    def ask():
        with pool.use("a") as model:
            found.append(model)

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert load.names == [folders["a"]]
    assert len({id(model) for model in found}) == 1
    assert pool.num_bytes == 200


def test_two_names_of_a_model_share_it(folders):
    pool, load = make({**folders, "whisper-1": folders["a"]})
    with pool.use("a") as one, pool.use("whisper-1") as other:
        assert one is other
    assert load.names == [folders["a"]]


def test_the_longest_idle_leaves_for_another_but_none_that_is_used(folders):
    pool, _ = make(folders, max_bytes=400)
    with pool.use("a"):
        for name in ("b", "c"):
            with pool.use(name):
                pass
        assert pool.loaded() == sorted([folders["a"], folders["c"]])
    with pool.use("b"):
        assert pool.loaded() == sorted([folders["a"], folders["b"]])


def test_idle_models_are_dropped(folders):
    pool, load = make(folders, idle_s=0.05)
    with pool.use("a"):
        time.sleep(0.1)
        pool.drop_idle()
        assert pool.loaded()
    pool.drop_idle()
    assert pool.loaded()
    time.sleep(0.1)
    pool.drop_idle()
    assert not pool.loaded()
    with pool.use("a"):
        pass
    assert len(load.names) == 2


def test_the_clock_of_the_day_means_nothing(folders, monkeypatch):
    pool, _ = make(folders)
    with pool.use("a"):
        pass
    monkeypatch.setattr(time, "time", lambda: 0.0)
    pool.drop_idle()
    assert pool.loaded()


@pytest.mark.parametrize("name", ["nope", "..", "/etc", "owner/name", ""])
def test_nothing_else_can_be_asked_for(folders, name):
    pool, load = make(folders)
    with pytest.raises(ModelNotFoundError, match="no model"), pool.use(name):
        pass
    assert not load.names


def test_a_model_whose_files_are_gone_is_told_and_may_come_back(folders, tmp_path):
    pool, _ = make(folders)
    with pool.use("a"):
        (tmp_path / "a").rename(tmp_path / "gone")
    with pool.use("a"):  # it is in memory
        pass
    pool._held.clear()
    with pytest.raises(ModelNotFoundError), pool.use("a"):
        pass
    assert not pool.loaded()
    (tmp_path / "gone").rename(tmp_path / "a")
    with pool.use("a"):
        pass
