"""Models of ModelScope by name, through its client."""

import sys

import pytest

from speechnar.errors import CheckpointError, MissingExtraError, ModelNotFoundError
from speechnar.interop.pull import pull_model
from speechnar.models.base import load_model
from speechnar.published import obtain_model
from tests.unit import published

NAME = "iic/speech_paraformer-large"


def test_without_the_client_it_says_what_to_install(hub, monkeypatch):
    monkeypatch.setitem(sys.modules, "modelscope_hub", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'speechnar\[modelscope\]'"):
        pull_model(NAME)
    assert hub.requests == []


@pytest.fixture
def modelscope(hub, tmp_path, monkeypatch):
    pytest.importorskip("modelscope_hub", reason="needs the package modelscope-hub")
    monkeypatch.setenv("MODELSCOPE_ENDPOINT", hub.url)
    monkeypatch.setenv("MODELSCOPE_CACHE", str(tmp_path / "modelscope"))
    monkeypatch.setenv("MODELSCOPE_HOME", str(tmp_path / "modelscope-home"))
    return hub


def files_sent(hub):
    return sum(path.endswith("/repo") for _, path in hub.requests)


def test_a_model_is_fetched_once_and_again_when_it_has_changed(modelscope, tmp_path, monkeypatch):
    repo = modelscope.add(NAME, published.funasr(tmp_path))
    folder = obtain_model(NAME)
    assert load_model(folder).name == "speech_paraformer-large"
    assert files_sent(modelscope) == 7, "only what is needed"
    modelscope.requests.clear()
    assert obtain_model(NAME) == folder
    assert modelscope.requests == []
    assert pull_model(NAME) == folder
    assert files_sent(modelscope) == 0
    repo.files["README.md"] += b"changed"
    assert pull_model(NAME) != folder

    # What is not as it is listed is refused. All in one test: the client remembers the address of its hub.
    monkeypatch.setattr("modelscope_hub._download.DOWNLOAD_INTEGRITY_RETRY_BACKOFF", 0.0)
    liar = modelscope.add("iic/liar", dict(repo.files))
    liar.listed["model.pt"] = liar.files["model.pt"]
    liar.files["model.pt"] = liar.files["model.pt"][:-1] + b"?"
    with pytest.raises((ModelNotFoundError, CheckpointError), match=r"iic/liar: .*model\.pt"):
        pull_model("iic/liar")
    modelscope.add("iic/thief", {"../stolen": b"x"})
    with pytest.raises(CheckpointError, match="no checkpoint can hold"):
        pull_model("iic/thief")
    with pytest.raises(ModelNotFoundError, match="ModelScope does not give it"):
        pull_model("iic/nothing")
