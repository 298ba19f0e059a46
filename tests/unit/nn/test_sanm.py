import math

import pytest
import torch
from torch.nn import functional as F

from speechnar.config import parse_config
from speechnar.errors import ConfigError
from speechnar.nn.lengths import valid_mask
from speechnar.nn.parallel_decoder import ParallelDecoder
from speechnar.nn.sanm import (
    DecoderCache,
    FsmnMemory,
    SanmDecoder,
    SanmEncoder,
    SanmEncoderConfig,
    WindowConfig,
    WindowedSpeech,
    num_windows,
)
from tests.contracts import check_gradients_reach_all, check_padding_contract

TINY = SanmEncoderConfig(model_dim=8, num_layers=3, num_heads=2, ff_dim=16, kernel_size=3)
WINDOWS = WindowConfig(current_frames=4, ahead_frames=2, encoder_look_back=2, decoder_look_back=1)


@pytest.mark.parametrize(("kernel_size", "shift"), [(5, 0), (4, 0), (5, 2), (1, 0)])
def test_memory_is_a_window_sum_plus_its_input(kernel_size: int, shift: int) -> None:
    torch.manual_seed(0)
    memory = FsmnMemory(3, kernel_size, shift=shift)
    x = torch.randn(1, 9, 3)
    y = memory(x.clone().index_fill_(1, torch.tensor([7, 8]), torch.nan), valid_mask(torch.tensor([7]), 9))
    left = (kernel_size - 1) // 2 + shift
    for u in range(7):
        expected = x[0, u].clone()
        for k in range(kernel_size):
            source = u - left + k
            if 0 <= source < 7:
                expected += memory.weight[:, 0, k] * x[0, source]
        torch.testing.assert_close(y[0, u], expected)
    assert y.isfinite().all()


def test_memory_that_misses_its_own_frame_is_refused() -> None:
    with pytest.raises(ConfigError, match="kernel 5, shift 3"):
        FsmnMemory(4, 5, shift=3)


def test_decoder_equals_its_equations() -> None:
    torch.manual_seed(1)
    decoder = SanmDecoder(8, 2, 2, 16, kernel_size=3).eval()
    x, enc = torch.randn(1, 4, 8), torch.randn(1, 6, 8)
    with torch.no_grad():
        hidden = decoder(
            x, torch.ones(1, 4, dtype=torch.bool), decoder.project(enc), torch.ones(1, 1, 1, 6, dtype=torch.bool)
        )
        y = x[0]
        for index, layer in enumerate(decoder.layers):
            t = F.relu(F.linear(layer.norm_ff(y), layer.ff.proj_in.weight, layer.ff.proj_in.bias))
            t = layer.norm_fsmn(F.linear(layer.ff.norm(t), layer.ff.proj_out.weight))
            padded = F.pad(t, (0, 0, 1, 1))
            y = y + t + sum(layer.fsmn.weight[:, 0, k] * padded[k : k + 4] for k in range(3))
            q = layer.query(layer.norm_attention(y))
            rows = slice(16 * index, 16 * index + 16)
            k, v = F.linear(enc[0], decoder.key_value.weight[rows], decoder.key_value.bias[rows]).split(8, dim=1)
            heads = [
                torch.softmax(q[:, part] @ k[:, part].t() / 2.0, dim=1) @ v[:, part]
                for part in (slice(0, 4), slice(4, 8))
            ]
            y = y + layer.out(torch.cat(heads, dim=1))
        t = F.relu(decoder.ff_last.proj_in(decoder.norm_last(y)))
        expected = decoder.norm(F.linear(decoder.ff_last.norm(t), decoder.ff_last.proj_out.weight))
    torch.testing.assert_close(hidden[0], expected, atol=1e-5, rtol=1e-5)


def test_decoder_is_blind_to_padding() -> None:
    torch.manual_seed(2)
    decoder = SanmDecoder(8, 2, 2, 16).eval()
    x, enc = torch.randn(2, 5, 8), torch.randn(2, 7, 8)
    valid, seen = valid_mask(torch.tensor([5, 3]), 5), valid_mask(torch.tensor([7, 4]), 7)
    batch = decoder(x.masked_fill(~valid[..., None], torch.nan), valid, decoder.project(enc), seen[:, None, None])
    alone = decoder(x[1:, :3], valid[1:, :3], decoder.project(enc[1:, :4]), seen[1:, None, None, :4])
    torch.testing.assert_close(batch[1, :3], alone[0], atol=1e-5, rtol=1e-5)


def test_gradients_reach_every_parameter_of_the_decoder() -> None:
    torch.manual_seed(3)
    decoder = SanmDecoder(8, 2, 2, 16)
    hidden = decoder(
        torch.randn(2, 5, 8),
        torch.ones(2, 5, dtype=torch.bool),
        decoder.project(torch.randn(2, 7, 8)),
        torch.ones(2, 1, 1, 7, dtype=torch.bool),
    )
    check_gradients_reach_all(decoder, (hidden * torch.randn(8)).sum())


def test_heads_must_divide_the_width() -> None:
    with pytest.raises(ConfigError, match="multiple of num_heads"):
        SanmDecoder(8, 1, 3, 16)


def test_transformer_decoder_sees_all_tokens_and_no_padding() -> None:
    torch.manual_seed(4)
    decoder = ParallelDecoder(8, 2, 2, 16).eval()
    x, enc = torch.randn(3, 5, 8), torch.randn(3, 7, 8)
    valid, seen = valid_mask(torch.tensor([5, 3, 0]), 5), valid_mask(torch.tensor([7, 4, 7]), 7)
    batch = decoder(x.masked_fill(~valid[..., None], torch.nan), valid, decoder.project(enc), seen[:, None, None])
    alone = decoder(x[1:2, :3], valid[1:2, :3], decoder.project(enc[1:2, :4]), seen[1:2, None, None, :4])
    torch.testing.assert_close(batch[1, :3], alone[0], atol=1e-5, rtol=1e-5)
    assert batch.isfinite().all()
    changed = x.clone()
    changed[0, 4, 0] += 1.0
    again = decoder(changed, valid, decoder.project(enc), seen[:, None, None])
    assert (again[0, 0] - batch[0, 0]).abs().max() > 1e-4


def test_last_attention_is_that_of_the_decoder() -> None:
    """Attending to values that are one-hot by frame shows the weights."""
    torch.manual_seed(5)
    decoder = SanmDecoder(8, 2, 1, 16).eval()
    x, valid, mask = torch.randn(1, 4, 8), torch.ones(1, 4, dtype=torch.bool), torch.tensor([[[[True] * 5 + [False]]]])
    keys_values = decoder.project(torch.randn(1, 6, 8)).clone()
    weights = decoder.attention(x, valid, keys_values, mask)
    assert not weights[..., 5].any()
    keys_values[-1, 1] = torch.eye(6, 8)
    before = decoder.layers[0].attend(decoder.layers[0].remember(x, valid), *keys_values[0], mask)
    last = decoder.layers[1]
    remembered = last.remember(before, valid)
    given = last.attend(remembered, *keys_values[1], mask) - remembered
    expected = F.pad(weights[0, 0], (0, 2)) @ last.out.weight.t() + last.out.bias
    torch.testing.assert_close(given[0], expected, atol=1e-5, rtol=1e-4)


def test_encoder_equals_its_equations() -> None:
    torch.manual_seed(6)
    encoder = SanmEncoder(TINY, 6).eval()
    feats = torch.randn(1, 5, 6)
    with torch.no_grad():
        enc, lens = encoder(feats, torch.tensor([5]))
        rates = [10000.0 ** (-k / 2) for k in range(3)]
        table = [[math.sin(t * r) for r in rates] + [math.cos(t * r) for r in rates] for t in range(1, 6)]
        x = feats[0] * math.sqrt(8) + torch.tensor(table)
        for index, layer in enumerate(encoder.layers):
            q, k, v = F.linear(layer.norm_attention(x), layer.qkv.weight, layer.qkv.bias).split(8, dim=1)
            heads = [torch.softmax(q[:, h] @ k[:, h].t() / 2.0, 1) @ v[:, h] for h in (slice(0, 4), slice(4, 8))]
            padded = F.pad(v, (0, 0, 1, 1))
            memory = v + sum(layer.fsmn.weight[:, 0, i] * padded[i : i + 5] for i in range(3))
            y = layer.out(torch.cat(heads, dim=1)) + memory
            x = y if index == 0 else x + y
            x = x + layer.ff[4](F.relu(layer.ff[1](layer.ff[0](x))))
    assert lens.tolist() == [5]
    torch.testing.assert_close(enc[0], encoder.norm(x), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("windows", [None, WINDOWS])
def test_encoder_keeps_the_padding_contract(windows: WindowConfig | None) -> None:
    torch.manual_seed(7)
    encoder = SanmEncoder(TINY.model_copy(update={"windows": windows}), 6).eval()
    check_padding_contract(encoder, torch.randn(6, 23, 6), torch.tensor([23, 14, 6, 7, 1, 22]))


@torch.no_grad()
def test_upper_layers_go_on_behind_the_norm() -> None:
    torch.manual_seed(10)
    lower = SanmEncoder(TINY, 6).eval()
    encoder = SanmEncoder(TINY.model_copy(update={"num_upper_layers": 2}), 6).eval()
    encoder.load_state_dict(lower.state_dict(), strict=False)
    feats, lens = torch.randn(2, 9, 6), torch.tensor([9, 4])
    x, _ = lower(feats, lens)
    valid = valid_mask(lens, 9)
    for layer in encoder.upper_layers:
        x = layer(x, valid, valid[:, None, None, :])
    expected = encoder.upper_norm(x) * valid[..., None]
    torch.testing.assert_close(encoder(feats, lens)[0], expected)
    assert not torch.equal(expected, lower(feats, lens)[0])
    check_padding_contract(encoder, torch.randn(3, 9, 6), torch.tensor([9, 4, 1]))


@torch.no_grad()
def test_without_upper_layers_their_norm_may_remain() -> None:
    torch.manual_seed(11)
    encoder = SanmEncoder(TINY.model_copy(update={"num_upper_layers": 0}), 6).eval()
    encoder.upper_norm.bias.fill_(3.0)
    assert encoder(torch.randn(1, 5, 6), torch.tensor([5]))[0].mean() == pytest.approx(3.0, abs=1e-5)
    assert not [name for name in SanmEncoder(TINY, 6).state_dict() if name.startswith("upper")]


def test_windows_have_no_upper_layers() -> None:
    with pytest.raises(ConfigError, match="leave num_upper_layers out"):
        parse_config({"windows": {}, "num_upper_layers": 1}, SanmEncoderConfig)


@pytest.mark.parametrize("windows", [None, WINDOWS])
def test_gradients_reach_every_parameter_of_the_encoder(windows: WindowConfig | None) -> None:
    torch.manual_seed(8)
    encoder = SanmEncoder(TINY.model_copy(update={"windows": windows}), 6)
    enc, _ = encoder(torch.randn(2, 15, 6), torch.tensor([15, 9]))
    check_gradients_reach_all(encoder, (enc * torch.randn(8)).sum())


def test_windows_that_cover_an_utterance_change_nothing() -> None:
    torch.manual_seed(9)
    encoder = SanmEncoder(TINY, 6).eval()
    feats, lens = torch.randn(2, 9, 6), torch.tensor([9, 5])
    whole, _ = encoder(feats, lens)
    encoder.config = TINY.model_copy(update={"windows": WindowConfig(current_frames=9, ahead_frames=3)})
    covered, _ = encoder(feats, lens)
    torch.testing.assert_close(covered, whole, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("num_frames", [1, 3, 6, 7, 10, 11, 23])
@pytest.mark.parametrize(("piece", "lead"), [(1, 0), (4, 0), (5, 2), (100, 3)])
def test_streamed_windows_equal_those_of_the_whole(num_frames: int, piece: int, lead: int) -> None:
    torch.manual_seed(10)
    windowing = WINDOWS.model_copy(update={"lead_frames": lead})
    encoder = SanmEncoder(TINY.model_copy(update={"windows": windowing}), 6).eval()
    feats = torch.randn(1, num_frames, 6)
    speech = encoder.encode(feats, torch.tensor([num_frames]))
    assert isinstance(speech, WindowedSpeech)
    stream = encoder.stream()
    windows = [w for start in range(0, num_frames, piece) for w in stream.push(feats[:, start : start + piece])]
    windows += stream.finish()
    assert [w.is_last for w in windows] == [False] * (len(windows) - 1) + [True]
    assert len(windows) == int(num_windows(speech.lens, WINDOWS))
    assert sum(w.num_current for w in windows) == num_frames + lead == int(speech.lens)
    for index, window in enumerate(windows):
        whole = speech.windows[0, index, : window.enc.size(1)]
        torch.testing.assert_close(window.enc[0], whole, atol=1e-5, rtol=1e-5)
        assert int(speech.windows_valid[0, index].sum()) == window.enc.size(1)
    current = torch.cat([w.enc[:, : w.num_current] for w in windows], dim=1)
    torch.testing.assert_close(current, speech.enc, atol=1e-5, rtol=1e-5)


def test_tokens_see_the_window_they_fire_in_and_those_before() -> None:
    encoder = SanmEncoder(TINY.model_copy(update={"windows": WINDOWS}), 6).eval()
    speech = encoder.encode(torch.randn(1, 11, 6), torch.tensor([11]))
    assert isinstance(speech, WindowedSpeech)
    visible = speech.visible(torch.tensor([[0, 3, 4, 10]])).view(4, 3, 6).int().tolist()
    all_of, current, none = [1] * 6, [1, 1, 1, 1, 0, 0], [0] * 6
    assert visible == [[all_of, none, none]] * 2 + [[current, all_of, none], [none, current, [1, 1, 1, 0, 0, 0]]]


def test_late_look_back_and_lead() -> None:
    update = {"late_look_back": True, "lead_frames": 3}
    encoder = SanmEncoder(TINY.model_copy(update={"windows": WINDOWS.model_copy(update=update)}), 6).eval()
    speech = encoder.encode(torch.randn(1, 8, 6), torch.tensor([8]))  # with the lead 11 frames as above
    assert isinstance(speech, WindowedSpeech)
    visible = speech.visible(torch.tensor([[0, 1, 7]])).view(3, 3, 6).int().tolist()
    all_of, late, none = [1] * 6, [0, 0, 1, 1, 1, 1], [0] * 6
    assert visible == [[all_of, none, none], [late, all_of, none], [none, late, [1, 1, 1, 0, 0, 0]]]
    for wrong in ({"lead_frames": 4}, {"late_look_back": True, "decoder_look_back": 2}):
        with pytest.raises(ConfigError):
            parse_config({"current_frames": 4} | wrong, WindowConfig)


def test_only_an_encoder_with_windows_streams() -> None:
    with pytest.raises(ConfigError, match=r"encoder\.windows"):
        SanmEncoder(TINY, 6).stream()


def test_a_causal_memory_continues_where_it_stopped() -> None:
    torch.manual_seed(11)
    decoder = SanmDecoder(8, 2, 2, 16, kernel_size=5, shift=2).eval()
    x, valid, mask = torch.randn(1, 9, 8), torch.ones(1, 9, dtype=torch.bool), torch.ones(1, 1, 1, 6, dtype=torch.bool)
    keys_values, cache = decoder.project(torch.randn(1, 6, 8)), DecoderCache()
    whole = decoder(x, valid, keys_values, mask)
    pieces = [decoder(x[:, a:b], valid[:, a:b], keys_values, mask, cache) for a, b in ((0, 2), (2, 3), (3, 9))]
    torch.testing.assert_close(torch.cat(pieces, dim=1), whole, atol=1e-5, rtol=1e-5)
