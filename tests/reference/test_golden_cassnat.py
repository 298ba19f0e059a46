"""What the CASS-NAT authors' code computed, compared where it is not installed."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from speechnar.decode.segments import path_segments
from speechnar.interop.cassnat import SPECIALS, map_state, parse_options
from speechnar.interop.espnet_names import check_fit
from speechnar.models.asr.cassnat import CassNat
from speechnar.models.asr.token_acoustic_embedder import cut_posteriors
from speechnar.models.asr.unienc import UniEnc
from speechnar.nn.context import BlockContext
from speechnar.nn.lengths import valid_mask
from speechnar.text.tokenizer import CharTokenizer

PIECES = [*SPECIALS, *"abcdefghijklmnopqrst"]
# Their LayerNorm adds 1e-6 to the deviation; the rest is rounding.
TOLERANCE = {"atol": 2e-4, "rtol": 0.0}


def read(name):
    with np.load(Path(__file__).parent / "golden" / f"{name}.npz", allow_pickle=False) as file:
        return dict(file)


def convert(golden, *, lose_last_emission=True, **encoder_changes):
    """Return the model of a golden file, with features not normalised, and its features."""
    options = json.loads(str(golden["options"]))
    config = parse_options(options).to_config()
    quirk = {"lose_last_emission": lose_last_emission}
    if "multi_ctc" not in options:
        quirk = {"head": config.head.model_copy(update=quirk)}
    config = config.model_copy(update=quirk)
    encoder = config.encoder.model_copy(update=encoder_changes)
    config = config.model_copy(update={"encoder": encoder})
    weights = {name[6:]: torch.from_numpy(value) for name, value in golden.items() if name.startswith("state/")}
    state, _ = map_state(weights, unienc="multi_ctc" in options)
    num_mels = options["n_features"]
    state |= {"trunk.normalizer.mean": torch.zeros(num_mels), "trunk.normalizer.std": torch.ones(num_mels)}
    model = (UniEnc if "multi_ctc" in options else CassNat)(config, CharTokenizer(PIECES)).eval()
    check_fit(model, state)
    model.load_state_dict(state)
    return model, torch.from_numpy(golden["feats"])[None]


def compare(golden, ours):
    for name, value in ours.items():
        theirs = torch.from_numpy(golden[name])
        torch.testing.assert_close(value, theirs, **TOLERANCE, msg=lambda fault, name=name: f"{name}: {fault}")


def cut(out):
    """Return the segments of the best path, in which the last frame begins no token."""
    return path_segments(cut_posteriors(out.speech, 0, lose_last=True).argmax(-1), out.lens, 0)


@pytest.mark.parametrize("name", ["cassnat", "unienc"])
@torch.no_grad()
def test_first_pass_and_segments(name):
    golden = read(name)
    model, feats = convert(golden)
    out = model.trunk.encode(feats, torch.tensor([feats.size(1)]))
    compare(golden, {"enc": out.enc[0], "log_probs": out.log_probs[0], "inter_log_probs": out.inter_log_probs[0]})
    segments = cut(out)
    assert int(segments.token_lens) > 4
    trigger_mask = segments.trigger_mask(out.enc.size(1), left=1, right=1)[0]
    assert np.array_equal(trigger_mask.numpy(), golden["trigger_mask"])


@torch.no_grad()
def test_cassnat_step_by_step():
    golden = read("cassnat")
    model, feats = convert(golden)
    out = model.trunk.encode(feats, torch.tensor([feats.size(1)]))
    segments = cut(out)
    head = model.head
    related = embeds = head.embedder.embed_slots(out.speech, segments)
    valid = torch.ones(related.shape[:2], dtype=torch.bool)
    for block in head.self_blocks:
        related = block(related, BlockContext(valid=valid, attn_mask=None, positions=head.distances))
    slots = head(out.speech, segments)
    compare(
        golden,
        {
            "embeds": embeds[0],
            "related": related[0],
            "slot_log_probs": slots.log_probs[0],
            "slot_inter_log_probs": slots.inter_log_probs[0],
        },
    )


@torch.no_grad()
def test_unienc_step_by_step():
    golden = read("unienc")
    model, feats = convert(golden)
    out = model.trunk.encode(feats, torch.tensor([feats.size(1)]))
    segments = cut(out)
    second = model.second_pass(out.frames, out.speech, segments)
    compare(
        golden,
        {
            "embeds": model.embedder.embed_slots(out.speech, segments)[0],
            "second_log_probs": model.trunk.ctc(second.enc)[0],
            "slot_log_probs": model.slot_log_probs(second.slots)[0],
            "slot_inter_log_probs": model.inter_out(second.inter_slots)[0],
        },
    )


@pytest.mark.parametrize("name", ["cassnat", "unienc"])
@torch.no_grad()
def test_hypothesis(name):
    golden = read(name)
    model, feats = convert(golden)
    (path,) = model.decode(model.trunk.encode(feats, torch.tensor([feats.size(1)])))
    best = golden["tokens"].tolist()
    end = best.index(2) if 2 in best else len(best)
    assert path.tokens == best[:end]
    assert len(set(path.tokens)) > 3


@torch.no_grad()
def test_a_token_emitted_on_the_last_frame_is_lost_only_on_request():
    golden = read("cassnat")
    model, feats = convert(golden, lose_last_emission=False)
    out = model.trunk.encode(feats, torch.tensor([feats.size(1)]))
    segments = path_segments(out.log_probs.argmax(-1), out.lens, 0)
    assert int(segments.slot_lens) == len(golden["trigger_mask"]) + 1
    assert int(segments.starts[0, -1]) == out.enc.size(1) - 1


@pytest.mark.parametrize("name", ["cassnat", "unienc"])
@torch.no_grad()
def test_training_loss(name):
    golden = read(name)
    model, feats = convert(golden)
    out = model.trunk.encode(feats, torch.tensor([feats.size(1)]))
    tokens = torch.from_numpy(golden["target"])[None]
    loss = model.loss_of(out, tokens, torch.tensor([tokens.size(1)]), torch.tensor([True]))
    for value, theirs in ((loss.parts["ctc"], "ctc_loss"), (loss.parts["ce"], "ce_loss"), (loss.total, "loss")):
        torch.testing.assert_close(value, torch.from_numpy(golden[theirs]), atol=1e-3, rtol=1e-4)


@pytest.mark.parametrize("name", ["cassnat", "unienc"])
@torch.no_grad()
def test_padded_batch_with_their_leak(name):
    golden = read(name)
    lens = torch.from_numpy(golden["batch_lens"])
    model, feats = convert(golden, leaky_padding=True)
    batch = feats.repeat(2, 1, 1)
    batch[1, lens[1] :] = 0.0
    enc, enc_lens = model.trunk.encoder(batch, lens)
    valid = valid_mask(enc_lens, enc.size(1))
    theirs = torch.from_numpy(golden["batch_enc"])
    torch.testing.assert_close(enc[valid], theirs[valid], **TOLERANCE)
    tight, feats = convert(golden)
    alone, _ = tight.trunk.encoder(feats[:, : lens[1]], lens[1:])
    assert (alone[0] - theirs[1, : alone.size(1)]).abs().max() > 0.01, "their padding leaks"
