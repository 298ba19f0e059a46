"""What is prepared computes what the layers it replaces compute, and can do nothing else."""

import copy
import pickle
import weakref
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from speechnar.asr.clips import ClipDecoder
from speechnar.asr.options import DecodeOptions
from speechnar.asr.transcriber import Transcriber
from speechnar.errors import ConfigError
from speechnar.hub import DEFAULT_MODEL, resolve_model
from speechnar.models import prepare as module
from speechnar.models.asr.paraformer import ParaformerConfig
from speechnar.models.base import load_model, save_model
from speechnar.models.mt.fretna_ctc import FretnaCtc, FretnaCtcConfig
from speechnar.models.prepare import (
    NONE,
    Activation,
    FloatLinear,
    HalfLinear,
    Int8Linear,
    PackedConv2d,
    PackedLinear,
    Processor,
    activation_of,
    check_precision,
    convolve_frames,
    fastest_for,
    find_processor,
    fold_norm,
    load_like,
    load_prepared,
    prepare,
)
from speechnar.nn.blocks import FeedForward
from speechnar.nn.cif import CifPredictor
from speechnar.nn.context import BlockContext
from speechnar.nn.conv import ConformerConv, ConvGatingMlp, ConvSubsampling
from speechnar.nn.encoder import ConformerConfig, Encoder
from speechnar.nn.sanm import FsmnMemory, SanmDecoderFeedForward
from speechnar.sound.generator import Generator
from speechnar.tts.acoustic import AcousticModel
from speechnar.tts.synthesizer import Synthesizer
from speechnar.tts.voice import Listener
from tests.contracts import check_padding_contract
from tests.unit.models.generators import WORDS, make_generator
from tests.unit.models.texts import TOKENIZER, one_batch
from tests.unit.tiny import (
    RATE,
    save_tiny_joint,
    save_tiny_model,
    save_tiny_paraformer,
    save_tiny_tts,
    speechlike,
    vowels,
)

PRECISIONS = find_processor().precisions
ACTIVATIONS = [None, nn.ReLU(), nn.SiLU(), nn.GELU(), nn.GELU(approximate="tanh")]
ALL = Processor(packs=True, has_bf16=True, int8_levels=127)
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def without_gradients():
    with torch.inference_mode():
        torch.manual_seed(0)
        yield


def needs(precision: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(precision not in PRECISIONS, reason=f"this processor does not compute in {precision}")


def wide_encoder() -> Encoder:
    """Of widths that are not left as they are."""
    config = ConformerConfig(model_dim=64, num_layers=2, num_heads=2, ff_dim=96, kernel_size=5, subsampling_channels=32)
    return Encoder(config, 80).eval()


# Layers.


@pytest.mark.parametrize("activation", ACTIVATIONS, ids=str)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(3, 7), (1,), (0,), (2, 0)], ids=str)
def test_packed_float32_is_exact(activation, bias, shape):
    linear = nn.Linear(48, 40, bias=bias)
    x = torch.randn(*shape, 48)
    naive = linear(x) if activation is None else activation(linear(x))
    packed = FloatLinear(linear, NONE if activation is None else activation_of(activation))
    torch.testing.assert_close(packed(x), naive, atol=2e-6, rtol=1e-5)


@pytest.mark.parametrize("kind", [FloatLinear, HalfLinear])
@pytest.mark.parametrize("activation", ACTIVATIONS, ids=str)
def test_bfloat16_is_that_of_rounded_numbers(kind, activation):
    if kind is FloatLinear and "bf16" not in PRECISIONS:
        pytest.skip("this processor does not compute in bf16")
    linear = nn.Linear(48, 40)
    x = torch.randn(3, 7, 48)
    rounded = F.linear(x.bfloat16().float(), linear.weight.bfloat16().float(), linear.bias.bfloat16().float())
    naive = rounded if activation is None else activation(rounded)
    act = NONE if activation is None else activation_of(activation)
    y = kind(linear, act, dtype=torch.bfloat16)(x)
    assert y.dtype == torch.float32
    torch.testing.assert_close(y, naive, atol=2e-2, rtol=2e-2)  # eight bits
    assert kind(linear, act, dtype=torch.bfloat16, keeps_dtype=True)(x).dtype == torch.bfloat16


@needs("int8")
@pytest.mark.parametrize("levels", [63, 127])
def test_whole_numbers_are_multiplied_exactly(levels):
    """Also where all are as large as can be, and sums of two products do not fit 16 bits."""
    linear = nn.Linear(64, 48)
    linear.weight.copy_(torch.randint(-127, 128, (48, 64)))
    linear.weight[:, 0] = 127  # the scale is then 1
    linear.weight[0] = 127
    x = torch.randint(-levels, levels + 1, (2, 5, 64)).float()
    x[..., 0] = levels
    x[0] = levels
    torch.testing.assert_close(Int8Linear(linear, levels=levels)(x), linear(x), atol=0.0, rtol=1e-6)


@needs("int8")
@pytest.mark.parametrize("activation", ACTIVATIONS, ids=str)
def test_int8_is_near(activation):
    linear = nn.Linear(256, 48)
    x = torch.randn(2, 50, 256) * torch.logspace(-3, 3, 50)[:, None]  # rows of any size are equally near
    naive = linear(x) if activation is None else activation(linear(x))
    act = NONE if activation is None else activation_of(activation)
    y = Int8Linear(linear, act, levels=find_processor().int8_levels)(x)
    size = naive.square().mean(-1, keepdim=True).sqrt() + 0.05
    assert ((y - naive).abs() / size).max() < 0.1


@needs("int8")
def test_a_row_of_8_bits_does_not_depend_on_others():
    layer = Int8Linear(nn.Linear(64, 48), levels=find_processor().int8_levels)
    x = torch.randn(6, 64)
    alone = torch.cat([layer(row[None]) for row in x])
    for garbage in (torch.nan, torch.inf, 1e30, 0.0):
        batch = torch.cat([x, torch.full((3, 64), garbage)])
        assert torch.equal(layer(batch)[:6], alone)
    assert torch.equal(layer(torch.zeros(2, 64)), layer._bias.expand(2, -1))
    assert layer(torch.randn(2, 0, 64)).shape == (2, 0, 48)


@needs("int8")
def test_weights_of_8_bits_are_packed_once_when_they_are_needed(monkeypatch):
    linear, x = nn.Linear(64, 48), torch.randn(5, 64)
    pack, calls = torch.ops.onednn.qlinear_prepack, []
    monkeypatch.setattr(torch.ops.onednn, "qlinear_prepack", lambda *given: calls.append(given) or pack(*given))
    layer = Int8Linear(linear, levels=find_processor().int8_levels)
    assert not calls
    with ThreadPoolExecutor(4) as pool:
        first, *others = pool.map(layer, [x] * 8)
    assert len(calls) == 1
    assert all(torch.equal(other, first) for other in others)
    assert layer._given is None


@pytest.mark.parametrize("padding", [0, 1])
@pytest.mark.parametrize("separable", [False, True])
def test_subsampling_is_exact(padding, separable):
    layer = ConvSubsampling(80, 32, factor=8, channels=32, padding=padding, separable=separable).eval()
    feats, lens = torch.randn(2, 90, 80), torch.tensor([90, 61])
    naive = layer(feats, lens)
    prepare(layer, "fp32")
    last = [conv[-1] if separable and number else conv for number, conv in enumerate(layer.convs)]
    assert [conv.activation.name for conv in last] == ["relu"] * 3
    assert isinstance(layer.activation, nn.Identity)
    torch.testing.assert_close(layer(feats, lens), naive, atol=2e-6, rtol=1e-5)


@needs("bf16")
@pytest.mark.parametrize("precision", [name for name in ("bf16", "int8") if name in PRECISIONS])
def test_subsampling_stays_in_half_precision_up_to_its_projection(precision):
    layer = prepare(ConvSubsampling(80, 32, factor=4, channels=32).eval(), precision)
    dtypes = []
    for conv in layer.convs:
        conv.register_forward_hook(lambda _, __, y: dtypes.append(y.dtype))
    assert layer(torch.randn(1, 40, 80)).dtype == torch.float32
    assert dtypes == [torch.bfloat16, torch.float32]


@pytest.mark.parametrize("activation", [None, nn.ReLU(), nn.SiLU()], ids=str)
@pytest.mark.parametrize("padding", [1, "same"])
def test_packed_convolutions_are_exact(activation, padding):
    conv = nn.Conv2d(32, 48, 3, padding=padding)
    x = torch.randn(2, 32, 9, 11)
    naive = conv(x) if activation is None else activation(conv(x))
    packed = PackedConv2d(conv, NONE if activation is None else activation_of(activation))
    torch.testing.assert_close(packed(x), naive, atol=2e-6, rtol=1e-5)


@pytest.mark.parametrize("bias", [True, False])
def test_a_norm_that_was_folded_is_exact(bias):
    conv, norm = nn.Conv1d(32, 32, 5, padding=2, groups=32, bias=bias), nn.BatchNorm1d(32).eval()
    for values in (norm.weight, norm.bias, norm.running_mean):
        values.copy_(torch.randn(32))
    norm.running_var.copy_(torch.rand(32) + 0.1)
    x = torch.randn(2, 32, 20)
    naive = norm(conv(x))
    fold_norm(conv, norm)
    torch.testing.assert_close(conv(x), naive, atol=5e-6, rtol=1e-5)


def test_norms_of_convolutions_are_folded():
    layer = ConformerConv(32, 5, norm="batch").eval()
    layer.norm.running_mean.copy_(torch.randn(32))
    valid = torch.arange(20) < torch.tensor([[20], [13]])
    context = BlockContext(valid=valid, attn_mask=None)
    x = torch.randn(2, 20, 32)
    naive = layer(x, context)
    prepare(nn.ModuleList([layer]), "fp32")
    assert isinstance(layer.norm, nn.Identity)
    torch.testing.assert_close(layer(x, context), naive, atol=5e-6, rtol=1e-5)


@pytest.mark.parametrize(
    ("layer", "arguments"),
    [
        (SanmDecoderFeedForward(64, 96, dropout=0.1, norm_eps=1e-5), ()),
        (
            ConvGatingMlp(64, 96, 5, dropout=0.1, norm_eps=1e-5),
            (BlockContext(valid=torch.ones(2, 9, dtype=torch.bool), attn_mask=None),),
        ),
    ],
    ids=["sanm", "gating"],
)
def test_activations_of_their_own_are_computed_along(layer, arguments, monkeypatch):
    monkeypatch.setattr(module, "find_processor", lambda: ALL)
    layer, x = copy.deepcopy(layer).eval(), torch.randn(2, 9, 64)
    naive = layer(x, *arguments)
    name = activation_of(layer.activation).name
    prepare(nn.ModuleList([layer]), "fp32")
    assert layer.proj_in.activation.name == name
    assert isinstance(layer.activation, nn.Identity)
    torch.testing.assert_close(layer(x, *arguments), naive, atol=2e-6, rtol=1e-5)


@pytest.mark.parametrize(
    "conv",
    [
        nn.Conv1d(32, 32, 5, padding=2, groups=32),
        nn.Conv1d(32, 32, 5, padding="same", groups=32, bias=False),
        nn.Conv1d(32, 32, 3, stride=2, dilation=2, groups=32),
    ],
    ids=str,
)
@pytest.mark.parametrize("shape", [(2, 32, 20), (32, 20)])
def test_depthwise_convolutions_of_frames_are_exact(conv, shape):
    x = torch.randn(shape)
    naive = conv(x), conv(x.mT.contiguous().mT)
    convolve_frames(conv)
    for given, expected in zip((x, x.mT.contiguous().mT), naive, strict=True):
        torch.testing.assert_close(conv(given), expected, atol=2e-6, rtol=1e-5)


def test_layers_that_are_convolutions_are_exact():
    valid = torch.arange(20) < torch.tensor([[20], [13]])
    x = torch.randn(2, 20, 32)
    layer = FsmnMemory(32, 5, shift=1)
    naive = layer(x, valid)
    prepare(nn.ModuleList([layer]), "fp32")
    assert "_conv_forward" in vars(layer)
    torch.testing.assert_close(layer(x, valid), naive, atol=2e-6, rtol=1e-5)


def test_activations_are_computed_along(monkeypatch):
    monkeypatch.setattr(module, "find_processor", lambda: ALL)
    ff = FeedForward(64, 96, dropout=0.1, norm_eps=1e-5).eval()
    x = torch.randn(2, 9, 64)
    naive = ff(x), ff.norm_last(x)
    prepare(ff, "fp32")
    assert isinstance(ff[1], FloatLinear)
    assert ff[1].activation.name == "swish"
    assert isinstance(ff[2], nn.Identity)
    for made, expected in zip((ff(x), ff.norm_last(x)), naive, strict=True):
        torch.testing.assert_close(made, expected, atol=2e-6, rtol=1e-5)


def test_half_precision_is_kept_between_two_linear_layers(monkeypatch):
    monkeypatch.setattr(module, "find_processor", lambda: ALL)
    if "bf16" not in PRECISIONS:
        pytest.skip("this processor does not compute in bf16")
    ff = prepare(FeedForward(64, 96, dropout=0.1, norm_eps=1e-5).eval(), "bf16")
    x = torch.randn(2, 9, 64)
    assert ff[1](x).dtype == torch.bfloat16
    assert ff(x).dtype == torch.float32


def test_what_stays_in_float32_is_given_float32(monkeypatch):
    """Also where the wide layer before it computes in half precision, as on a GPU."""
    monkeypatch.setattr(module, "find_processor", lambda: Processor(packs=False, has_bf16=True, int8_levels=0))
    monkeypatch.setattr(module, "FloatLinear", HalfLinear)
    layers = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 2))
    x = torch.randn(3, 64)
    naive = layers(x)
    prepare(layers, "bf16")
    assert [type(layer) for layer in layers] == [HalfLinear, nn.Identity, HalfLinear, nn.Identity, nn.Linear]
    torch.testing.assert_close(layers(x), naive, atol=2e-2, rtol=2e-2)


# Models.


@pytest.mark.parametrize("precision", PRECISIONS)
def test_utterances_do_not_depend_on_their_batch_or_its_padding(precision):
    encoder = prepare(wide_encoder(), precision)
    check_padding_contract(encoder, torch.randn(3, 100, 80), torch.tensor([100, 61, 33]))


@pytest.mark.parametrize("precision", PRECISIONS)
def test_encoders_are_near(precision):
    encoder = wide_encoder()
    feats, lens = torch.randn(2, 100, 80), torch.tensor([100, 61])
    naive, _ = encoder(feats, lens)
    made, _ = prepare(encoder, precision)(feats, lens)
    tolerance = {"fp32": 1e-5, "bf16": 0.1, "int8": 0.2}[precision]
    assert 0 < (made - naive)[0].abs().max() < tolerance


def test_float32_of_the_shipped_recogniser_is_exact():
    """The best token of every frame is the same; sums in another order move noises like this by some 1e-5, speech less.

    What is less probable than e^-10 moves more, as it does from one processor to the next.
    """
    folder = resolve_model(DEFAULT_MODEL)
    wav = vowels(4.0)
    naive = ClipDecoder(load_model(folder)).encode([wav]).log_probs
    made = ClipDecoder(load_prepared(folder, precision="fp32")).encode([wav]).log_probs
    assert torch.equal(made.argmax(2), naive.argmax(2))
    assert (made - naive)[naive > -10].abs().max() < 1e-4


def test_old_weights_are_freed(monkeypatch):
    monkeypatch.setattr(module, "find_processor", lambda: ALL)
    encoder = wide_encoder()
    old = [weakref.ref(layer.weight) for layer in encoder.modules() if isinstance(layer, nn.Linear | nn.Conv2d)]
    assert old
    prepare(encoder, "fp32")
    assert not [ref for ref in old if ref() is not None]


def test_tied_weights_stay_for_who_reads_them():
    model = FretnaCtc.from_config(FretnaCtcConfig.debug(), TOKENIZER).eval()
    batch = one_batch()
    naive = model.translate(batch), model.loss(batch).total
    prepare(model, "fp32")
    assert model.translate(batch) == naive[0]
    torch.testing.assert_close(model.loss(batch).total, naive[1], atol=1e-5, rtol=1e-5)
    if isinstance(model.ctc.proj, PackedLinear):
        assert model.ctc.proj.weight.data_ptr() == model.embed.weight.data_ptr()


@pytest.mark.parametrize(
    "use",
    [
        nn.Module.state_dict,
        copy.deepcopy,
        pickle.dumps,
        nn.Module.train,
        nn.Module.double,
        lambda model: model.to("cpu"),
        lambda model: model.load_state_dict({}, strict=False),
    ],
)
def test_what_else_models_do_is_refused_in_one_line(use, monkeypatch):
    monkeypatch.setattr(module, "find_processor", lambda: ALL)
    encoder = prepare(wide_encoder(), "fp32")
    with pytest.raises(ConfigError, match="neither saved, copied, moved nor trained; load it once more") as caught:
        use(encoder)
    assert "\n" not in str(caught.value)
    assert encoder.eval() is encoder


def test_a_prepared_model_is_not_saved(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "find_processor", lambda: ALL)
    loaded = load_prepared(save_tiny_model(tmp_path / "tiny"), precision="fp32")
    with pytest.raises(ConfigError, match="load_model, which leaves it as it was saved"):
        save_model(tmp_path / "copy", loaded.model, loaded.tokenizer)
    assert not (tmp_path / "copy" / "model.safetensors").exists()


def test_threads_share_a_prepared_model():
    encoder = prepare(wide_encoder(), PRECISIONS[-1])
    inputs = [torch.randn(1, 40 + 3 * i, 80) for i in range(8)]

    def encode(feats):
        with torch.inference_mode():
            return encoder(feats, torch.tensor([feats.size(1)]))[0]

    alone = [encode(feats) for feats in inputs]
    with ThreadPoolExecutor(4) as pool:
        for made, expected in zip(pool.map(encode, inputs), alone, strict=True):
            torch.testing.assert_close(made, expected, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_every_decoder_of_a_recogniser_reads_a_prepared_one(precision, tmp_path):
    folder = save_tiny_joint(tmp_path / "joint")
    naive, prepared = Transcriber(load_model(folder)), Transcriber.load(folder, device="cpu", precision=precision)
    wavs = [speechlike(2.0, seed=seed) for seed in range(2)]
    for decoder in naive.decoders:
        options = DecodeOptions(decoder=decoder)
        texts = [
            [found.text for found in t.transcribe(wavs, sample_rate=RATE, language="eng", options=options)]
            for t in (naive, prepared)
        ]
        assert any(texts[1])
        if precision == "fp32":
            assert texts[0] == texts[1]


@pytest.mark.parametrize("precision", PRECISIONS)
def test_tokens_of_paraformer_are_counted_in_float32(precision, tmp_path):
    config = ParaformerConfig.debug()
    folder = save_tiny_paraformer(tmp_path / "paraformer", config)
    naive, prepared = load_model(folder), load_prepared(folder, precision=precision)
    predictor = next(part for part in prepared.model.modules() if isinstance(part, CifPredictor))
    assert type(predictor.proj) is nn.Linear
    assert predictor.proj.weight.dtype == torch.float32
    paths = [ClipDecoder(loaded).decode([speechlike(3.0)])[0].path for loaded in (naive, prepared)]
    assert len(paths[1].tokens) > 3
    if precision == "fp32":
        assert paths[0].tokens == paths[1].tokens


@pytest.mark.parametrize("precision", [p for p in PRECISIONS if p != "int8"])
def test_speech_is_that_of_the_naive_model(precision, tmp_path):
    folder = save_tiny_tts(tmp_path / "tts")
    acoustic = AcousticModel(load_model(folder))
    naive = Synthesizer(acoustic, Listener("joint-asr", "cpu", acoustic)).synthesize("Good day.", steps=2).samples
    made = Synthesizer.load(folder, device="cpu", precision=precision).synthesize("Good day.", steps=2).samples
    assert len(made) == len(naive)
    error = ((made - naive) ** 2).sum() / (naive**2).sum()
    assert error < {"fp32": 1e-8, "bf16": 1e-2}[precision]


@pytest.mark.parametrize("kind", ["magnet", "enat", "music_ar"])
def test_codes_of_a_codec_are_exact(kind, tmp_path):
    model = make_generator(kind)
    save_model(tmp_path / kind, model, WORDS)
    generator = Generator.load(tmp_path / kind, device="cpu", precision=PRECISIONS[-1])
    assert all(
        torch.equal(a, b) for a, b in zip(generator._model.codec.parameters(), model.codec.parameters(), strict=True)
    )
    assert generator.generate(seconds=0.1).samples.any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("precision", PRECISIONS)
def test_weights_that_are_read_for_packing_are_those_of_a_loaded_model(dtype, precision, tmp_path):
    """And nothing is left in the file."""
    folder = save_tiny_joint(tmp_path / "joint")
    whole = load_model(folder)
    save_model(folder, whole.model, whole.tokenizer, dtype=dtype)
    naive, made = load_model(folder), load_prepared(folder, precision=precision)
    prepare(naive.model, precision)
    weights = folder / "model.safetensors"
    weights.write_bytes(bytes(weights.stat().st_size))
    for (name, expected), found in zip(naive.model.named_parameters(), made.model.parameters(), strict=True):
        assert found.dtype == expected.dtype, name
        assert torch.equal(found, expected), name
    wav = speechlike(2.0)
    expected, found = (ClipDecoder(loaded).encode([wav]).log_probs for loaded in (naive, made))
    assert torch.equal(found, expected)


# Choosing.


def test_precisions_are_checked():
    with pytest.raises(ConfigError, match="precision must be one of auto, fp32, bf16, int8; got 'fp16'"):
        check_precision("fp16", CPU)
    with pytest.raises(ConfigError, match="precision int8 is not to be had, or no faster, on this cuda"):
        check_precision("int8", torch.device("cuda"))


@pytest.mark.parametrize(
    ("processor", "of_recognisers", "of_others"),
    [
        (Processor(packs=True, has_bf16=True, int8_levels=127), "int8", "bf16"),
        (Processor(packs=True, has_bf16=False, int8_levels=127), "int8", "fp32"),
        (Processor(packs=False, has_bf16=False, int8_levels=63), "fp32", "fp32"),
        (Processor(packs=True, has_bf16=True, int8_levels=0), "bf16", "bf16"),
        (Processor(packs=False, has_bf16=False, int8_levels=0), "fp32", "fp32"),
    ],
)
def test_auto_is_the_fastest_that_the_processor_has(processor, of_recognisers, of_others, monkeypatch, tmp_path):
    monkeypatch.setattr(module, "find_processor", lambda: processor)
    recogniser = load_model(save_tiny_model(tmp_path / "tiny")).model
    assert fastest_for(recogniser, CPU) == of_recognisers
    assert fastest_for(wide_encoder(), CPU) == of_others
    assert fastest_for(recogniser, torch.device("cuda")) == "bf16"
    assert fastest_for(recogniser, torch.device("mps")) == "fp32"


def test_nothing_is_replaced_where_nothing_is_faster(monkeypatch):
    monkeypatch.setattr(module, "find_processor", lambda: Processor(packs=False, has_bf16=False, int8_levels=0))
    encoder = prepare(wide_encoder(), "auto")
    assert not [layer for layer in encoder.modules() if isinstance(layer, PackedLinear)]
    assert not any(parameter.requires_grad for parameter in encoder.parameters())


def test_another_model_is_loaded_like_the_first(tmp_path):
    folder = save_tiny_model(tmp_path / "tiny")
    assert load_model(folder).precision is None
    assert load_like(load_model(folder), folder).precision is None
    assert load_like(load_prepared(folder, precision="fp32"), folder).precision == "fp32"


def test_activations_that_cannot_be_computed_along_stay():
    assert activation_of(nn.Tanh()) is None
    assert isinstance(activation_of(nn.ReLU()), Activation)
