"""ESPnet's recognisers here and there: four encoders, their positions, intermediate heads, CTC text and decoder."""

import logging

import pytest
import torch

from speechnar.decode.ctc import greedy
from speechnar.interop.espnet import convert_espnet
from speechnar.models.asr.joint import Joint
from speechnar.models.base import load_model
from speechnar.nn.encoder import Encoder
from speechnar.nn.lengths import valid_mask, zero_padding
from tests.reference.espnet_models import asr_options, build, import_espnet, train_tokenizer, write_folder
from tests.unit.tiny import speechlike

pytestmark = pytest.mark.slow
TOLERANCE = {"atol": 1e-4, "rtol": 0.0}
ABSOLUTE = {"pos_enc_layer_type": "abs_pos"}


@pytest.fixture(scope="module")
def task(tmp_path_factory):
    return import_espnet(tmp_path_factory.mktemp("espnet"), "asr")


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer()


def pieces_of(tokenizer):
    """Return the list of a recipe, whose one piece begins and ends sentences."""
    return (*tokenizer.pieces[:-3], "<sos/eos>")


@pytest.mark.parametrize(
    ("encoder", "changes"),
    [
        ("conformer", {}),
        ("conformer", {"input_layer": "conv2d6"}),
        ("conformer", {"input_layer": "conv2d8", "selfattention_layer_type": "selfattn", **ABSOLUTE}),
        ("conformer", {"rel_pos_type": "legacy"}),  # models from before ESPnet 0.9.7, and the default
        ("conformer", {"interctc_layer_idx": [1, 2], "interctc_use_conditioning": True}),
        ("e_branchformer", {}),
        ("e_branchformer", {"interctc_layer_idx": [2], "interctc_use_conditioning": True}),
        ("branchformer", {}),
        ("branchformer", {"attention_layer_type": "selfattn", **ABSOLUTE}),
        ("transformer", {}),
        ("transformer", {"interctc_layer_idx": [1], "interctc_use_conditioning": True, "input_layer": "conv2d6"}),
        ("transformer", {"interctc_layer_idx": [1]}),
    ],
)
@torch.no_grad()
def test_encoders_heads_and_text_agree(task, tokenizer, tmp_path, encoder, changes):
    options = asr_options(pieces_of(tokenizer), encoder, dim=64, num_blocks=3)
    options["encoder_conf"] |= changes
    espnet = build(task, options)
    source = write_folder(tmp_path / "espnet", espnet, options, tokenizer)
    report = convert_espnet(source, tmp_path / "ours")
    assert [key.source for key in report.keys] == list(espnet.state_dict())
    assert all(key.destination for key in report.keys)
    loaded = load_model(tmp_path / "ours")
    assert loaded.tokenizer.pieces[-1] == "<eos>"

    # Legacy positions read their table by the length of the utterance, where ESPnet takes that of the batch.
    if "interctc_layer_idx" not in changes and changes.get("rel_pos_type") != "legacy":
        check_leaky_batch(espnet, loaded.model.encoder)

    wavs = [torch.from_numpy(speechlike(seconds)) for seconds in (4.0, 2.3456)]
    lens = torch.tensor([wav.numel() for wav in wavs])
    batch = loaded.model.encode(torch.nn.utils.rnn.pad_sequence(wavs, batch_first=True), lens)
    paths = greedy(batch.log_probs, batch.lens, loaded.model.blank_id)
    for i, wav in enumerate(wavs):
        enc, enc_lens = espnet.encode(wav[None], lens[i : i + 1])
        inter = []
        if isinstance(enc, tuple):
            enc, inter = enc[0], [espnet.ctc.log_softmax(x) for _, x in enc[1]]
        n = int(batch.lens[i])
        assert n == int(enc_lens)
        log_probs = espnet.ctc.log_softmax(enc)
        torch.testing.assert_close(batch.enc[i, :n], enc[0], **TOLERANCE)
        torch.testing.assert_close(batch.log_probs[i, :n], log_probs[0], **TOLERANCE)
        assert len(batch.inter_log_probs) == (len(inter) if changes.get("interctc_use_conditioning") else 0)
        for ours, theirs in zip(batch.inter_log_probs, inter, strict=False):
            torch.testing.assert_close(ours[i, :n], theirs[0], **TOLERANCE)
        best = torch.unique_consecutive(log_probs[0].argmax(-1))
        assert paths[i].tokens == best[best != espnet.blank_id].tolist()
        assert len(set(paths[i].tokens)) > 3


def check_leaky_batch(espnet, encoder):
    """Compare the encoders on features, where padding leaks as it does there."""
    leaky = Encoder(encoder.config.model_copy(update={"leaky_padding": True}), 80).eval()
    leaky.load_state_dict(encoder.state_dict())
    for sizes in ([150, 99, 60], [23]):
        feat_lens = torch.tensor(sizes)
        feats = zero_padding(torch.randn(len(sizes), max(sizes), 80), valid_mask(feat_lens, max(sizes)))
        theirs, their_lens, _ = espnet.encoder(feats, feat_lens)
        ours, our_lens = leaky(feats, feat_lens)
        assert our_lens.tolist() == their_lens.tolist()
        for b, n in enumerate(our_lens.tolist()):
            torch.testing.assert_close(ours[b, :n], theirs[b, :n], **TOLERANCE)


@pytest.mark.parametrize("encoder", ["conformer", "e_branchformer"])
@torch.no_grad()
def test_decoder_of_a_hybrid_becomes_ours(task, tokenizer, tmp_path, encoder):
    options = asr_options(pieces_of(tokenizer), encoder, dim=64, num_blocks=2, decoder=True)
    espnet = build(task, options)
    source = write_folder(tmp_path / "espnet", espnet, options, tokenizer)
    report = convert_espnet(source, tmp_path / "ours")
    assert all(key.destination for key in report.keys)
    model = load_model(tmp_path / "ours").model
    assert isinstance(model, Joint)
    assert model.decoder_names == ("ctc", "transformer_ar")
    wav = torch.from_numpy(speechlike(3.0))[None]
    lens = torch.tensor([wav.size(1)])
    out = model.encode(wav, lens)
    enc, enc_lens = espnet.encode(wav, lens)
    torch.testing.assert_close(out.enc, enc, **TOLERANCE)
    tokens = torch.randint(2, 200, (1, 9))
    tokens[0, 0] = espnet.sos
    theirs, _ = espnet.decoder(enc, enc_lens, tokens, torch.tensor([9]))
    head = model.decoders["transformer_ar"]
    torch.testing.assert_close(head.decoder(tokens, head.memory(model.encoded_speech(out))), theirs, **TOLERANCE)
    assert (head.sos_id, head.eos_id) == (espnet.sos, espnet.eos)

    report = convert_espnet(source, tmp_path / "ctc", skip_decoder=True)
    skipped = [key.source for key in report.keys if key.destination is None]
    assert skipped == [name for name in espnet.state_dict() if name.startswith("decoder.")]
    alone = load_model(tmp_path / "ctc").model
    torch.testing.assert_close(alone.encode(wav, lens).log_probs, out.log_probs)


def test_other_decoders_are_left_out_by_name(task, tokenizer, tmp_path, caplog):
    options = asr_options(pieces_of(tokenizer), "conformer", dim=64, num_blocks=1, decoder=True)
    options["decoder"], options["decoder_conf"] = "rnn", {"num_layers": 1, "hidden_size": 16}
    espnet = build(task, options)
    source = write_folder(tmp_path / "espnet", espnet, options, tokenizer)
    with caplog.at_level(logging.WARNING):
        report = convert_espnet(source, tmp_path / "ours")
    assert "its decoder is left out, CTC is kept (decoder must be transformer, got 'rnn')" in caplog.text
    skipped = [key.source for key in report.keys if key.destination is None]
    assert skipped == [name for name in espnet.state_dict() if name.startswith("decoder.")]
    assert load_model(tmp_path / "ours").model.decoder_names == ("ctc",)
