"""The trunk of CASS-NAT and UniEnc: its heads and losses by their definitions."""

import pytest
import torch
from torch.nn import functional as F

from speechnar.models.asr.ctc_trunk import CtcTrunk, NormedHead, conformer
from speechnar.models.asr.unienc import UniEncConfig
from speechnar.nn.encoder import ConformerConfig
from speechnar.text.tokenizer import CharTokenizer
from tests.unit.tiny import speechlike

TOKENIZER = CharTokenizer(("<blank>", "<unk>", "▁", *"abcdefgh"))
TOKENS, TOKEN_LENS = torch.tensor([[5, 6, 6, 4, 7], [8, 9, 0, 0, 0]]), torch.tensor([5, 2])
ENCODER = conformer(model_dim=16, num_layers=3, num_heads=2, subsampling_channels=4, kernel_size=7)
ALL = torch.tensor([True, True])


def build(**changes) -> CtcTrunk:
    torch.manual_seed(0)
    config = UniEncConfig(encoder=ENCODER, interctc_layer=2, ctc_weight=0.3, interctc_weight=0.7)
    return CtcTrunk(config.model_copy(update=changes), TOKENIZER).eval()


def encode(trunk: CtcTrunk):
    wav = torch.stack([torch.from_numpy(speechlike(1.0, seed=seed)) for seed in (1, 2)])
    return trunk.encode(*trunk.features(wav, torch.tensor([16000, 9000])))


def per_token(log_probs: torch.Tensor, lens: torch.Tensor) -> list[float]:
    return [
        float(F.ctc_loss(row[:t], tokens[:u], t[None], u[None], reduction="sum")) / int(u)
        for row, t, tokens, u in zip(log_probs.detach(), lens, TOKENS, TOKEN_LENS, strict=True)
    ]


def test_losses_are_means_of_nats_per_token():
    trunk = build()
    out = encode(trunk)
    total, parts = trunk.losses(out, TOKENS, TOKEN_LENS, ALL)
    last, inter = per_token(out.log_probs, out.lens), per_token(out.inter_log_probs, out.lens)
    wanted = {"ctc": sum(last) / 2, "inter_ctc": sum(inter) / 2}
    assert {name: float(part.detach()) for name, part in parts.items()} == pytest.approx(wanted, rel=1e-5)
    assert float(total.detach()) == pytest.approx(0.3 * wanted["ctc"] + 0.7 * wanted["inter_ctc"], rel=1e-5)
    _, parts = trunk.losses(out, TOKENS, TOKEN_LENS, torch.tensor([False, True]))
    assert float(parts["ctc"].detach()) == pytest.approx(last[1], rel=1e-5)
    _, parts = trunk.losses(out, TOKENS, TOKEN_LENS, ~ALL)
    assert float(parts["ctc"].detach()) == 0.0


def test_without_a_weight_there_is_no_intermediate_head():
    trunk = build(interctc_weight=0.0)
    out = encode(trunk)
    assert trunk.inter_ctc is None
    assert out.inter_log_probs is None
    total, parts = trunk.losses(out, TOKENS, TOKEN_LENS, ALL)
    assert set(parts) == {"ctc"}
    assert float(total.detach()) == pytest.approx(0.3 * float(parts["ctc"].detach()))


@pytest.mark.parametrize("layer", [1, 2])
@torch.no_grad()
def test_the_intermediate_head_hears_its_block(layer):
    trunk = build(interctc_layer=layer)
    seen = []
    trunk.encoder.layers[layer - 1].register_forward_hook(lambda _module, _args, y: seen.append(y))
    out = encode(trunk)
    torch.testing.assert_close(out.inter_log_probs, trunk.inter_ctc(seen[0]))
    torch.testing.assert_close(out.log_probs, trunk.ctc(out.enc))
    assert not out.enc[1, int(out.lens[1]) :].any()
    speech = out.speech
    assert speech.enc is out.enc
    assert speech.log_probs is out.log_probs
    assert torch.equal(speech.lens, out.lens)


@torch.no_grad()
def test_a_head_on_what_was_not_normalised():
    torch.manual_seed(0)
    head, x = NormedHead(4, 3, 0.1), torch.randn(2, 5, 4) * 7 + 2
    head.norm.weight.normal_()
    head.norm.bias.normal_()
    normed = (x - x.mean(2, keepdim=True)) / (x.var(2, correction=0, keepdim=True) + 0.1).sqrt()
    logits = (normed * head.norm.weight + head.norm.bias) @ head.proj.weight.T + head.proj.bias
    torch.testing.assert_close(head(x), logits - logits.logsumexp(2, keepdim=True))


@torch.no_grad()
def test_features_are_masked_in_training_only():
    trunk = build()
    wav, lens = torch.from_numpy(speechlike(1.0))[None], torch.tensor([16000])
    plain, _ = trunk.features(wav, lens)
    assert torch.equal(trunk.training_features(wav, lens)[0], plain)
    trunk.train()
    torch.manual_seed(0)
    assert not torch.equal(trunk.training_features(wav, lens)[0], plain)
    assert torch.equal(build(spec_augment=None).train().training_features(wav, lens)[0], plain)


def test_a_frame_lasts_four_hundredths():
    assert build().frame_shift_s == pytest.approx(0.04)


def test_an_encoder_is_a_conformer_unless_it_says_otherwise():
    config = UniEncConfig.model_validate({"encoder": {"model_dim": 16, "num_layers": 7, "positions": "clipped"}})
    assert isinstance(config.encoder, ConformerConfig)
    assert UniEncConfig.model_validate(config.model_dump()) == config
    with pytest.raises(ValueError, match="e_branchformer"):
        UniEncConfig.model_validate({"encoder": {"kind": "e_branchformer"}})


def test_wrong_layers_are_refused():
    with pytest.raises(ValueError, match="interctc_layer must stay below num_layers=3, got 3"):
        UniEncConfig(encoder=ENCODER, interctc_layer=3)
    UniEncConfig(encoder=ENCODER, interctc_layer=3, interctc_weight=0.0, inter_ce_weight=0.0)
    with pytest.raises(ValueError, match="no prompt to attend to; leave cross_attention_every out"):
        UniEncConfig(encoder=ENCODER.model_copy(update={"cross_attention_every": 2}), interctc_layer=1)
