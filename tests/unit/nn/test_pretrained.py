"""What all pretrained encoders share, whatever lies below their layers."""

import pytest
import torch

from speechnar.nn.encoder import ConformerConfig
from speechnar.nn.pretrained import PretrainedTrunk
from speechnar.nn.wav2vec2 import Wav2Vec2Config, Wav2Vec2Trunk, Wav2Vec2TrunkConfig
from speechnar.nn.whisper import WhisperConfig, WhisperTrunk, WhisperTrunkConfig

BLOCKS = ConformerConfig(model_dim=24, num_layers=2, num_heads=2, ff_dim=48, kernel_size=5, subsampling=2)


def make(kind, frozen_layers=0, blocks=BLOCKS) -> PretrainedTrunk:
    torch.manual_seed(0)
    if kind == "whisper":
        whisper = WhisperConfig(num_mels=20, model_dim=32, num_layers=3, num_heads=2, frozen_layers=frozen_layers)
        return WhisperTrunk(WhisperTrunkConfig(whisper=whisper, blocks=blocks), 20).eval()
    sizes = Wav2Vec2Config.debug().model_copy(
        update={"frozen_layers": frozen_layers, "norm_first": kind == "wav2vec2-large"}
    )
    return Wav2Vec2Trunk(Wav2Vec2TrunkConfig(wav2vec2=sizes, blocks=blocks), 1).eval()


@pytest.fixture(params=["whisper", "wav2vec2", "wav2vec2-large"])
def kind(request):
    return request.param


def test_weights_are_named_after_the_kind(kind):
    trunk = make(kind)
    parts = {name.partition(".")[0] for name, _ in trunk.named_parameters()}
    assert parts == {kind.removesuffix("-large"), "blocks"}
    assert make(kind, blocks=None).blocks is None
    assert trunk.pretrained is getattr(trunk, trunk.kind)


def test_depth_is_the_number_of_layers_above(kind):
    trunk = make(kind)
    depths = {name: trunk.depth_of(name) for name, _ in trunk.named_parameters()}
    prefix = f"{trunk.kind}."
    for number, depth in ((0, 3), (1, 2), (2, 1)):
        found = {depths[name] for name in depths if name.startswith(f"{prefix}layers.{number}.")}
        assert found == {depth}
    below = {d for name, d in depths.items() if name.startswith(prefix) and ".layers." not in name}
    assert below == ({4} if kind == "wav2vec2" else {0, 4})  # the norm behind the last layer, where there is one
    assert {d for name, d in depths.items() if name.startswith("blocks.")} == {0}


def test_what_is_frozen_grows_from_below(kind):
    free = {name for name, p in make(kind, 0).named_parameters() if not p.requires_grad}
    one = {name for name, p in make(kind, 1).named_parameters() if not p.requires_grad}
    every = {name for name, p in make(kind, 3).named_parameters() if not p.requires_grad}
    assert bool(free) == (kind != "whisper")  # the convolutions of samples are never trained
    assert free < one < every
    assert not any(".layers.1." in name for name in one)
    pretrained = {name for name, _ in make(kind).named_parameters() if not name.startswith("blocks.")}
    assert every == pretrained


@torch.no_grad()
def test_layers_can_be_run_in_parts(kind):
    encoder = make(kind).pretrained
    x, valid = torch.randn(2, 9, 32), torch.tensor([[True] * 9, [True] * 6 + [False] * 3])
    x[1, 6:] = torch.nan
    numbers: list[int] = []

    def note(number, y):
        numbers.append(number)
        return y

    halfway = encoder.run_layers(x, valid, 0, 2, after_layer=note)
    found = encoder.run_layers(halfway, valid, 2, 3, after_layer=note)
    torch.testing.assert_close(found, encoder.run_layers(x, valid, 0, 3))
    assert numbers == [1, 2, 3]
    assert not found[1, 6:].any()
    if encoder.norm is not None:
        assert not torch.allclose(halfway, encoder.norm(halfway), atol=1e-2)  # it stands behind the last layer only
    alone = encoder.run_layers(x[1:, :6], valid[1:, :6], 0, 3)
    torch.testing.assert_close(found[1:, :6], alone, atol=1e-5, rtol=1e-4)
