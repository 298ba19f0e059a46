import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from speechnar.models.tts.vocos import Vocos, VocosConfig
from speechnar.models.tts.vocos_stream import VocoderStream, delay_frames


def make_model() -> Vocos:
    torch.manual_seed(0)
    model = Vocos(VocosConfig.debug()).eval()
    with torch.no_grad():
        for block in model.blocks:
            block.scale.fill_(1.0)  # so that the convolutions count
        model.head.weight.mul_(10.0)
    return model


MODEL = make_model()


@torch.no_grad()
def whole(feats: torch.Tensor) -> torch.Tensor:
    return MODEL(feats[None], torch.tensor([len(feats)]))[0][0]


def pieces(feats: torch.Tensor, sizes: list[int]) -> list[torch.Tensor]:
    stream = VocoderStream(MODEL)
    ends = [0, *itertools.accumulate(sizes)]
    pushed = [stream.push(feats[begin:end]) for begin, end in itertools.pairwise(ends)]
    return [*pushed, stream.push(feats[ends[-1] :]), stream.finish()]


@given(sizes=st.lists(st.integers(0, 40), max_size=6), num_frames=st.integers(0, 90), seed=st.integers(0, 9))
@settings(max_examples=40, deadline=None)
def test_any_pieces_make_the_whole(sizes, num_frames, seed):
    feats = torch.randn(num_frames, 80, generator=torch.Generator().manual_seed(seed))
    wav = torch.cat(pieces(feats, sizes))
    assert wav.shape == (160 * num_frames,)
    torch.testing.assert_close(wav, whole(feats), atol=1e-5, rtol=1e-4)


def test_samples_come_as_soon_as_they_are_certain():
    """A frame decides its samples after exactly ``delay_frames`` more; the frame after that changes nothing."""
    delay = delay_frames(MODEL)
    feats = torch.randn(60, 80, generator=torch.Generator().manual_seed(0))
    stream = VocoderStream(MODEL)
    lengths = [len(stream.push(feats[i : i + 1])) for i in range(60)]
    assert lengths == [0] * delay + [160] * (60 - delay)
    changed = feats.clone()
    changed[delay] += 5.0
    difference = (whole(changed) - whole(feats)).abs()
    assert difference[:160].max() > 1e-6, "the last frame waited for does count"
    changed = feats.clone()
    changed[delay + 1] += 5.0
    assert (whole(changed) - whole(feats))[:160].abs().max() == 0


def test_memory_stays_flat():
    stream = VocoderStream(MODEL)

    def held() -> int:
        state = [conv._held for conv in stream._convs] + [stream._spectrum]
        return sum(tensor.numel() for tensor in state)

    for _ in range(10):
        stream.push(torch.zeros(8, 80))
    before = held()
    for _ in range(100):
        stream.push(torch.zeros(8, 80))
    assert held() == before


def test_a_wider_window_overlaps_more():
    config = VocosConfig.debug()
    wide = config.model_copy(
        update={"frontend": config.frontend.model_copy(update={"win_length": 1024, "n_fft": 1024})}
    )
    assert delay_frames(Vocos(wide)) == delay_frames(MODEL) + 1
    torch.manual_seed(0)
    model = Vocos(wide).eval()
    feats = torch.randn(50, 80)
    stream = VocoderStream(model)
    wav = torch.cat([*(stream.push(feats[i : i + 7]) for i in range(0, 50, 7)), stream.finish()])
    with torch.no_grad():
        expected = model(feats[None], torch.tensor([50]))[0][0]
    torch.testing.assert_close(wav, expected, atol=1e-5, rtol=1e-4)


def test_phases_that_are_found_are_those_of_the_whole():
    model = Vocos(VocosConfig.debug().model_copy(update={"phase_iterations": 2})).eval()
    assert delay_frames(model) == delay_frames(MODEL) + 2 * 3
    feats = torch.randn(70, 80, generator=torch.Generator().manual_seed(0))
    stream = VocoderStream(model)
    wav = torch.cat([*(stream.push(feats[i : i + 9]) for i in range(0, 70, 9)), stream.finish()])
    with torch.no_grad():
        expected = model(feats[None], torch.tensor([70]))[0][0]
    torch.testing.assert_close(wav, expected, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("num_frames", [0, 1])
def test_nearly_nothing(num_frames):
    stream = VocoderStream(MODEL)
    assert len(stream.push(torch.zeros(num_frames, 80))) == 0
    assert len(stream.finish()) == 160 * num_frames
