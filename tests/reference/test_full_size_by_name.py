"""A checkpoint of a published size, by name: on the meta device, where tensors have names and shapes and no data."""

import json

import pytest
import torch

from speechnar.errors import CheckpointError
from speechnar.interop.pull import pull_model
from tests.unit.conftest import hub  # noqa: F401  # a fixture
from tests.unit.published import saved

transformers = pytest.importorskip("transformers", reason="needs the package transformers", exc_type=ImportError)

pytestmark = pytest.mark.slow

NAME = "facebook/wav2vec2-base-960h"
LETTERS = "ETAONIHSRDLUMWCFGYPBVK'XJQZ"


@pytest.fixture
def files():
    """Return what is published of it: the configuration of 94 M parameters and their names and shapes."""
    config = transformers.Wav2Vec2Config()
    with torch.device("meta"):
        state = transformers.Wav2Vec2ForCTC(config).state_dict()
    assert sum(tensor.numel() for tensor in state.values()) > 90e6
    vocabulary = {piece: number for number, piece in enumerate(["<pad>", "<s>", "</s>", "<unk>", "|", *LETTERS])}
    return {
        "config.json": config.to_json_string(use_diff=False).encode(),
        "vocab.json": json.dumps(vocabulary).encode(),
        "pytorch_model.bin": saved(dict(state)),
    }


def test_every_tensor_of_a_published_size_has_its_place(hub, files):  # noqa: F811
    hub.add(NAME, files)
    # All names and shapes fit, or else this would say which do not; only then is there something to be written.
    with pytest.raises(CheckpointError, match="Cannot copy out of meta tensor; no data!"):
        pull_model(NAME)
    assert sorted(hub.fetched()) == sorted(files)


def test_one_of_another_size_is_named(hub, files):  # noqa: F811
    config = json.loads(files["config.json"]) | {"intermediate_size": 3000}
    hub.add(NAME, files | {"config.json": json.dumps(config).encode()})
    with pytest.raises(CheckpointError, match=r"24 of another shape|36 of another shape"):
        pull_model(NAME)
