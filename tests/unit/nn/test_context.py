import pytest
import torch

from speechnar.errors import ConfigError
from speechnar.nn.context import Chunking


@pytest.mark.parametrize("chunk_frames", [1, 2, 3, 10])
@pytest.mark.parametrize("left_chunks", [0, 1, 2, None])
def test_a_frame_sees_its_chunk_and_those_before(chunk_frames, left_chunks):
    visible = Chunking(chunk_frames=chunk_frames, left_chunks=left_chunks).visible(8, torch.device("cpu"))
    for query in range(8):
        own = query // chunk_frames
        first = 0 if left_chunks is None else max(0, own - left_chunks)
        wanted = [first * chunk_frames <= key < (own + 1) * chunk_frames for key in range(8)]
        assert visible[query].tolist() == wanted


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"chunk_frames": 0}, "chunk_frames must be at least 1, got 0"),
        ({"chunk_frames": 2, "left_chunks": -1}, "left_chunks must be at least 0 or None, got -1"),
    ],
)
def test_sizes_that_see_nothing_are_refused(values, message):
    with pytest.raises(ConfigError, match=message):
        Chunking(**values)
