"""Second weights, which tell when Paraformer's tokens are spoken."""

import pytest
import torch

from speechnar.errors import ConfigError
from speechnar.models.asr.bicif import TimestampConfig
from tests.contracts import check_gradients_reach_all
from tests.unit.models.asr.test_paraformer_head import SMALL, make_head, make_speech


def test_times_of_tokens() -> None:
    head = make_head(SMALL.model_copy(update={"timestamps": TimestampConfig()})).train()
    speech, tokens, lens = make_speech([20, 13]), torch.tensor([[3, 4, 5, 6], [7, 8, 0, 0]]), torch.tensor([4, 2])
    out = head.loss(speech, tokens, lens)
    torch.testing.assert_close(out.total, out.parts["ce"] + out.parts["quantity"] + 0.5 * out.parts["times"])
    check_gradients_reach_all(head, out.total)
    assert head.timestamps is not None
    second = head.timestamps.alphas(speech.enc, speech.lens).sum(1)
    torch.testing.assert_close(out.parts["times"], (second - torch.tensor([5, 3])).abs().mean())
    head.eval()
    paths = head.decode(speech)
    for path, times, num in zip(paths, head.times(speech, paths), speech.lens.tolist(), strict=True):
        assert len(times.starts) == len(times.ends) == len(path.tokens)
        assert all(0 <= s < e <= num for s, e in zip(times.starts, times.ends, strict=True))
    with pytest.raises(ConfigError, match="timestamps"):
        make_head().times(speech, paths)
