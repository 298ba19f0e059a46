import pytest
import torch
from torch import Tensor

from speechnar.decode.align import CtcPath
from speechnar.errors import ConfigError, ShapeError
from speechnar.models.asr.paraformer import Paraformer, ParaformerConfig
from speechnar.models.asr.paraformer_head import CifConfig
from speechnar.models.asr.paraformer_stream import ParaformerStream
from speechnar.nn.sanm import WindowConfig
from tests.unit.models.asr.test_paraformer import _Pieces

WINDOWS = WindowConfig(current_frames=4, ahead_frames=2, encoder_look_back=2, decoder_look_back=1)


def make_model(*, windows: WindowConfig | None = WINDOWS, shift: int = 5, alpha_bias: float = 0.3) -> Paraformer:
    base = ParaformerConfig.debug()
    head = base.head.model_copy(update={"fsmn_shift": shift, "embedder": CifConfig(threshold="fixed")})
    encoder = base.encoder.model_copy(update={"windows": windows})
    torch.manual_seed(0)
    model = Paraformer(base.model_copy(update={"head": head, "encoder": encoder}), _Pieces()).eval()  # type: ignore[arg-type]
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        model.normalizer.mean += 10 + torch.randn(560, generator=generator)
        model.normalizer.std += 2.0
        model.head.output.weight.mul_(4.0)  # no ties for rounding to break
        model.head.output.bias[:3] = -20.0
        model.head.embedder.proj.bias.fill_(alpha_bias)  # type: ignore[union-attr]
    return model


def make_wav(num_samples: int) -> Tensor:
    generator = torch.Generator().manual_seed(2)
    loudness = torch.rand(num_samples // 1600 + 1, generator=generator).repeat_interleave(1600)[:num_samples]
    return 0.3 * loudness * torch.randn(num_samples, generator=generator)


def stream(model: Paraformer, wav: Tensor, size: int) -> list[CtcPath]:
    streaming = ParaformerStream(model)
    return [streaming.push(wav[start : start + size]) for start in range(0, len(wav), size)] + [streaming.finish()]


@pytest.mark.parametrize("num_samples", [1, 399, 400, 1500, 9600, 14800, 15760, 16159, 33000])
def test_any_pieces_give_what_the_whole_gives(num_samples: int) -> None:
    model, wav = make_model(), make_wav(num_samples)
    (whole,) = model.decode(model.encode(wav[None], torch.tensor([num_samples])))
    if num_samples > 1500:
        assert len(whole.tokens) > 1
    for size in (977, 9600, 40000):
        paths = stream(model, wav, size)
        assert [token for path in paths for token in path.tokens] == whole.tokens
        assert [start for path in paths for start in path.starts] == whole.starts
        ends = [end for path in paths for end in path.ends]
        assert ends[:-1] == whole.ends[:-1]
        assert whole.ends[-1:] in (ends[-1:], [end + 1 for end in ends[-1:]])  # shared with a token that never fired
        assert [score for path in paths for score in path.scores] == pytest.approx(whole.scores, abs=1e-3)


def test_single_samples_and_empty_pushes() -> None:
    model, wav = make_model(), make_wav(2100)
    (whole,) = model.decode(model.encode(wav[None], torch.tensor([2100])))
    streaming = ParaformerStream(model)
    tokens = streaming.push(wav[:0]).tokens
    for sample in wav:
        tokens += streaming.push(sample[None]).tokens
    assert tokens + streaming.finish().tokens == whole.tokens


def test_tokens_come_before_the_end_and_the_last_one_comes() -> None:
    """Every frame takes part, also when the last samples are far fewer than a window."""
    model = make_model(alpha_bias=30.0)  # every frame fires
    for num_samples in (48000, 48000 + 400, 48000 + 959):
        paths = stream(model, make_wav(num_samples), 4800)
        num_frames = -(-((num_samples - 400) // 160 + 1) // 6)
        assert sum(len(path.tokens) for path in paths) == num_frames
        assert paths[-1].ends[-1] == num_frames
        # A window of 4 frames is written when 2 frames and a feature's reach behind it are known.
        assert sum(len(path.tokens) for path in paths[:-1]) >= num_frames - 7


def test_an_utterance_without_samples_is_empty() -> None:
    streaming = ParaformerStream(make_model())
    assert streaming.finish() == CtcPath([], [], [], [], 0)


@pytest.mark.parametrize("windows", [WindowConfig(), WindowConfig(lead_frames=5, late_look_back=True)])
def test_published_windows_stream_too(windows: WindowConfig) -> None:
    model, wav = make_model(windows=windows), make_wav(50000)
    (whole,) = model.decode(model.encode(wav[None], torch.tensor([50000])))
    paths = stream(model, wav, 9600)
    assert [token for path in paths for token in path.tokens] == whole.tokens
    assert [start for path in paths for start in path.starts] == whole.starts
    assert [end for path in paths for end in path.ends][:-1] == whole.ends[:-1]
    assert whole.starts[0] == 0
    assert whole.ends[-1] <= 52


def test_the_published_size_can_stream() -> None:
    with torch.device("meta"):
        model = Paraformer(ParaformerConfig.large_online(), _Pieces(8404))  # type: ignore[arg-type]
    assert sum(p.numel() for p in model.parameters()) == 220_084_533  # as offline
    with torch.device("cpu"):
        ParaformerStream(model)


def test_misuse_is_named() -> None:
    with pytest.raises(ConfigError, match=r"encoder\.windows set, head\.decoder sanm"):
        ParaformerStream(make_model(windows=None, shift=0))
    streaming = ParaformerStream(make_model())
    with pytest.raises(ShapeError, match=r"\(1, 5\)"):
        streaming.push(torch.zeros(1, 5))
    streaming.finish()
    with pytest.raises(ConfigError, match="start another"):
        streaming.push(torch.zeros(5))
    with pytest.raises(ConfigError, match="start another"):
        streaming.finish()
