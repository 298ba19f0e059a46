import pytest
import torch
from torch import Tensor

from speechnar.errors import ConfigError, ShapeError
from speechnar.nn.cif import (
    TAIL_WEIGHT,
    CifPredictor,
    CifStream,
    TimestampPredictor,
    integrate_and_fire,
    quantity_loss,
    spans_of_fires,
)
from speechnar.nn.embedder import EncodedSpeech
from speechnar.nn.lengths import valid_mask


def fire_one_by_one(enc: Tensor, alphas: Tensor) -> Tensor:
    """Integrate one utterance (T, D), (T,) frame by frame as the papers do, closing as many tokens as a frame can."""
    tokens: list[Tensor] = []
    held, part = alphas.new_zeros(()), enc.new_zeros(enc.size(1))
    for frame, alpha in zip(enc, alphas, strict=True):
        rest = alpha
        while held + rest >= 1.0 - 1e-9:
            used = 1.0 - held
            tokens.append(part + used * frame)
            rest = rest - used
            held, part = alphas.new_zeros(()), torch.zeros_like(part)
        held, part = held + rest, part + rest * frame
    return torch.stack(tokens) if tokens else enc.new_zeros(0, enc.size(1))


CASES = {
    "random": [0.31, 0.22, 0.4, 0.63, 0.05, 0.71, 0.18, 0.93, 0.37],
    "many in one frame": [0.2, 3.7, 0.1, 2.45, 0.6],
    "zeros between": [0.0, 0.6, 0.0, 0.0, 0.6, 0.0, 0.9],
    "whole at once": [0.5, 0.5, 1.0, 0.25, 0.75],
    "nothing fires": [0.1, 0.05, 0.2],
}


@pytest.mark.parametrize("name", CASES)
def test_fixed_threshold_equals_the_loop_with_a_tail(name: str) -> None:
    alphas = torch.tensor(CASES[name], dtype=torch.float64)
    enc = torch.randn(len(alphas), 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    cut = integrate_and_fire(enc[None], alphas[None], torch.tensor([len(alphas)]), threshold="fixed")
    with_tail = torch.cat([alphas, torch.tensor([TAIL_WEIGHT], dtype=torch.float64)])
    expected = fire_one_by_one(torch.cat([enc, torch.zeros(1, 5, dtype=torch.float64)]), with_tail)
    assert int(cut.lens) == len(expected)
    torch.testing.assert_close(cut.embeds[0, : len(expected)], expected, atol=1e-9, rtol=0)
    assert not cut.embeds[0, len(expected) :].any()


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("num_tokens", [None, 1, 4, 9])
def test_scaled_weights_equal_the_loop_and_its_gradients(name: str, num_tokens: int | None) -> None:
    generator = torch.Generator().manual_seed(1)
    values = torch.tensor(CASES[name], dtype=torch.float64)
    frames = torch.randn(len(values), 3, dtype=torch.float64, generator=generator)
    num = num_tokens or int(-(-values.sum() // 1))
    weights = torch.randn(num, 3, dtype=torch.float64, generator=generator)
    given = None if num_tokens is None else torch.tensor([num_tokens])

    enc, alphas = frames.clone().requires_grad_(), values.clone().requires_grad_()
    cut = integrate_and_fire(enc[None], alphas[None], torch.tensor([len(values)]), given)
    assert int(cut.lens) == num
    enc_loop, alphas_loop = frames.clone().requires_grad_(), values.clone().requires_grad_()
    expected = fire_one_by_one(enc_loop, alphas_loop * (num / alphas_loop.sum()))
    torch.testing.assert_close(cut.embeds[0], expected, atol=1e-9, rtol=0)

    (cut.embeds[0] * weights).sum().backward()
    (expected * weights).sum().backward()
    torch.testing.assert_close(enc.grad, enc_loop.grad, atol=1e-8, rtol=0)
    # Where a frame ends exactly with a token, left and right derivatives differ.
    kinks = name == "whole at once" and num > 1
    if not kinks:
        torch.testing.assert_close(alphas.grad, alphas_loop.grad, atol=1e-8, rtol=0)


def test_frames_of_tokens() -> None:
    alphas = torch.tensor([[0.0, 0.5, 0.25, 0.5, 0.0, 2.75, 0.0, 0.55, 0.0]])
    cut = integrate_and_fire(torch.zeros(1, 9, 2), alphas, torch.tensor([9]), threshold="fixed")
    assert cut.lens.tolist() == [5]
    assert cut.starts.tolist() == [[1, 3, 5, 5, 7]]
    assert cut.ends.tolist() == [[4, 6, 6, 6, 9]]


def test_float32_weights_that_should_fill_tokens_exactly_do() -> None:
    cut = integrate_and_fire(torch.ones(1, 100, 1), torch.full((1, 100), 0.1), torch.tensor([100]))
    assert cut.lens.tolist() == [10]
    assert cut.starts.tolist() == [list(range(0, 100, 10))]
    assert cut.ends.tolist() == [list(range(10, 110, 10))]
    torch.testing.assert_close(cut.embeds, torch.ones(1, 10, 1))


@pytest.mark.parametrize("threshold", ["dynamic", "rounded", "fixed"])
def test_batch_equals_single(threshold: str) -> None:
    generator = torch.Generator().manual_seed(2)
    lens = torch.tensor([30, 11, 1, 23])
    enc = torch.randn(4, 30, 6, generator=generator)
    alphas = torch.rand(4, 30, generator=generator) * 0.4  # also in padding
    batch = integrate_and_fire(enc, alphas, lens, threshold=threshold)  # type: ignore[arg-type]
    for i, num in enumerate(lens.tolist()):
        alone = integrate_and_fire(enc[i : i + 1, :num], alphas[i : i + 1, :num], lens[i : i + 1], threshold=threshold)  # type: ignore[arg-type]
        assert alone.lens == batch.lens[i]
        count = int(alone.lens)
        torch.testing.assert_close(batch.embeds[i, :count], alone.embeds[0, :count])
        assert batch.starts[i, :count].tolist() == alone.starts[0, :count].tolist()
        assert batch.ends[i, :count].tolist() == alone.ends[0, :count].tolist()
        assert not batch.embeds[i, count:].any()


def test_a_fixed_threshold_fires_a_rest_of_at_least_055() -> None:
    alphas = torch.tensor([[1.0, 0.54], [1.0, 0.56]])
    cut = integrate_and_fire(torch.ones(2, 2, 1), alphas, torch.tensor([2, 2]), threshold="fixed")
    assert cut.lens.tolist() == [1, 2]
    torch.testing.assert_close(cut.embeds[1, 1], torch.tensor([0.56]))


def test_shapes_that_do_not_fit_are_named() -> None:
    with pytest.raises(ShapeError, match=r"\(1, 3\)"):
        integrate_and_fire(torch.zeros(1, 2, 4), torch.zeros(1, 3), torch.tensor([2]))


def test_quantity_loss_is_the_difference_of_sums() -> None:
    alphas = torch.tensor([[0.5, 0.7], [1.0, 1.5]])
    torch.testing.assert_close(quantity_loss(alphas, torch.tensor([2, 1])), torch.tensor([0.8, 1.5]))


@pytest.mark.parametrize("conv", ["full", "depthwise"])
def test_predictor_equals_its_formula_in_any_batch(conv: str) -> None:
    torch.manual_seed(3)
    predictor = CifPredictor(6, conv=conv, smooth_factor=1.5, noise_threshold=0.3).eval()  # type: ignore[arg-type]
    lens = torch.tensor([7, 4])
    valid = valid_mask(lens, 7)
    enc = torch.randn(2, 7, 6) * valid[..., None]
    alphas = predictor.alphas(enc, valid)
    weight, bias = predictor.conv.weight, predictor.conv.bias
    assert bias is not None
    for t in range(4):
        window = torch.stack([enc[1, s] if 0 <= s < 4 else torch.zeros(6) for s in (t - 1, t, t + 1)])  # (3, D)
        if conv == "full":
            y = torch.einsum("oik,ki->o", weight, window) + bias
        else:
            y = (weight[:, 0].t() * window).sum(0) + bias + enc[1, t]
        sigmoid = torch.sigmoid(predictor.proj.weight[0] @ y.relu() + predictor.proj.bias[0])
        torch.testing.assert_close(alphas[1, t], (1.5 * sigmoid - 0.3).clamp(min=0))
    assert not alphas[1, 4:].any()


def test_predictor_gives_the_number_of_tokens_it_is_told() -> None:
    torch.manual_seed(4)
    predictor = CifPredictor(8)
    speech = EncodedSpeech(enc=torch.randn(2, 20, 8), lens=torch.tensor([20, 20]))
    cut = predictor(speech, torch.zeros(2, 6, dtype=torch.int64), torch.tensor([6, 3]))
    assert cut.embeds.shape == (2, 6, 8)
    assert cut.lens.tolist() == [6, 3]
    assert not cut.embeds[1, 3:].any()
    assert cut.ends[0, 5] == 20
    assert cut.ends[1, 2] == 20
    with torch.autocast("cpu", torch.bfloat16):
        assert predictor(speech).alphas.dtype == torch.float32


def test_weights_that_can_never_be_positive_are_refused() -> None:
    with pytest.raises(ConfigError, match="smooth_factor"):
        CifPredictor(4, smooth_factor=0.2, noise_threshold=0.3)


def test_how_sums_are_counted() -> None:
    alphas = torch.tensor([[1.0, 1.2], [1.0, 1.5], [1.0, 1.9], [0.0, 0.3]])
    lens, enc = torch.full((4,), 2), torch.ones(4, 2, 1)
    expected = {"dynamic": [3, 3, 3, 1], "rounded": [2, 3, 3, 0], "fixed": [2, 2, 3, 0]}
    for threshold, counts in expected.items():
        cut = integrate_and_fire(enc, alphas, lens, threshold=threshold)  # type: ignore[arg-type]
        assert cut.lens.tolist() == counts
        if threshold != "fixed":  # scaled: every token integrates one unit of weight
            assert (cut.embeds.sum((1, 2)) - cut.lens).abs().max() < 1e-5


def spans_one_by_one(alphas: list[float], num_tokens: int) -> list[tuple[float, float]]:
    """Follow the rule of BiCIF step by step."""
    scale = (num_tokens + 1) / sum(alphas)
    fires, held = [], 0.0
    for step, alpha in enumerate(alphas):
        held += alpha * scale
        if held >= 1 - 1e-4:
            fires.append(max(0.0, step - 1.5))
            held -= 1 - 1e-4
    spans = []
    for i in range(num_tokens):
        start, end = fires[i], fires[i + 1]
        if end - start > 12:
            end = start + 12
        elif i == num_tokens - 1:
            end = len(alphas) if len(alphas) - end <= 5 else (len(alphas) + end) / 2
        spans.append((start, end))
    return spans


@pytest.mark.parametrize(("tail", "gap"), [(0, 0), (4, 0), (30, 0), (0, 40), (30, 40)])
def test_spans_of_fires_follow_the_rule(tail: int, gap: int) -> None:
    generator = torch.Generator().manual_seed(tail + gap)
    rows, lens, counts = [], [], [9, 4, 0]
    for row in range(3):
        weights = (torch.rand(50 - 7 * row, generator=generator) * 0.24).tolist()
        weights = weights[:20] + [0.0] * gap + weights[20:] + [0.0] * tail
        rows.append(weights)
        lens.append(len(weights))
    alphas = torch.tensor([weights + [0.0] * (max(lens) - len(weights)) for weights in rows], dtype=torch.float64)
    starts, ends = spans_of_fires(alphas, torch.tensor(lens), torch.tensor(counts))
    for row, count in enumerate(counts):
        expected = spans_one_by_one(rows[row], count)
        assert starts[row, :count].tolist() == [start for start, _ in expected]
        assert ends[row, :count].tolist() == [end for _, end in expected]
        assert not starts[row, count:].any()
        assert not ends[row, count:].any()


def test_timestamp_weights_do_not_depend_on_the_batch() -> None:
    torch.manual_seed(5)
    predictor = TimestampPredictor(4).eval()
    lens = torch.tensor([9, 5])
    enc = torch.randn(2, 9, 4)
    batch, alone = predictor.alphas(enc, lens), predictor.alphas(enc[1:, :5], lens[1:])
    assert batch.shape == (2, 27)
    torch.testing.assert_close(batch[1, :15], alone[0])
    assert not batch[1, 15:].any()
    assert batch.max() <= 0.24
    starts, ends = predictor.spans(enc, lens, torch.tensor([3, 1]))
    assert ((starts >= 0) & (ends <= 9)).all()
    assert (ends[0] > starts[0]).all()


@pytest.mark.parametrize("scale", [0.3, 0.9, 3.0])
@pytest.mark.parametrize("piece", [1, 4, 30])
def test_integration_by_pieces_equals_that_of_the_whole(scale: float, piece: int) -> None:
    generator = torch.Generator().manual_seed(7)
    enc, alphas = torch.randn(1, 23, 4, generator=generator), scale * torch.rand(1, 23, generator=generator)
    alphas[:, 8:11] = 0.0
    whole = integrate_and_fire(enc, alphas, torch.tensor([23]), threshold="fixed")
    stream = CifStream()
    cuts = [
        stream.integrate(enc[:, t : t + piece], alphas[:, t : t + piece], is_last=t + piece >= 23)
        for t in range(0, 23, piece)
    ]
    torch.testing.assert_close(torch.cat([cut.embeds for cut in cuts], dim=1), whole.embeds)
    assert torch.cat([cut.starts for cut in cuts], dim=1).tolist() == whole.starts.tolist()
    assert torch.cat([cut.ends for cut in cuts], dim=1).tolist() == whole.ends.tolist()
