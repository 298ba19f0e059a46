"""Stored features: what is written is what is read, and other weights' are refused."""

import json

import numpy as np
import pytest
import torch

from speechnar.data.features import INDEX_FILE, STATES_FILE, StoredFeatures, fingerprint
from speechnar.errors import DataError


def write(folder, states, places, *, name="abc", dim=4):
    folder.mkdir()
    states.astype(np.float16).tofile(folder / STATES_FILE)
    index = {"fingerprint": name, "dim": dim, "utterances": places}
    (folder / INDEX_FILE).write_text(json.dumps(index))
    return folder


def test_utterances_of_several_directories_are_read(tmp_path):
    states = np.arange(20).reshape(5, 4)
    stored = StoredFeatures(
        [
            write(tmp_path / "a", states, {"u1": [0, 2], "u2": [2, 3]}),
            write(tmp_path / "b", -states, {"u3": [1, 1]}),
        ]
    )
    assert stored.fingerprint == "abc"
    assert "u2" in stored
    assert "u4" not in stored
    np.testing.assert_array_equal(stored.read("u2"), states[2:5])
    np.testing.assert_array_equal(stored.read("u3"), -states[1:2])
    with pytest.raises(DataError, match="'u4' has no stored features"):
        stored.read("u4")


def test_what_does_not_belong_together_is_refused(tmp_path):
    states = np.zeros((5, 4))
    first = write(tmp_path / "a", states, {"u1": [0, 2]})
    with pytest.raises(DataError, match="other weights than those before"):
        StoredFeatures([first, write(tmp_path / "b", states, {}, name="def")])
    with pytest.raises(DataError, match="ends before the features of 'u1'"):
        StoredFeatures([write(tmp_path / "c", states, {"u1": [4, 2]})])
    (tmp_path / "d").mkdir()
    with pytest.raises(DataError, match="speechnar data features"):
        StoredFeatures([tmp_path / "d"])


def test_other_weights_have_another_name():
    weights = [torch.ones(2), torch.zeros(3)]
    assert fingerprint(weights) == fingerprint([weight.clone() for weight in weights])
    assert fingerprint(weights) != fingerprint([torch.ones(2), torch.full((3,), 1e-3)])
