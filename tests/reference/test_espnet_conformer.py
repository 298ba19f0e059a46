"""The CTC branch of ESPnet's Conformers here and there: relative and absolute positions, batch norm, subsampling."""

import pytest
import torch

from speechnar.errors import CheckpointError
from speechnar.interop.espnet import convert_espnet
from speechnar.models.base import load_model
from speechnar.nn.encoder import Encoder
from speechnar.nn.lengths import valid_mask, zero_padding
from tests.reference.espnet_models import build, conformer_options, import_espnet, train_tokenizer, write_folder
from tests.unit.tiny import speechlike

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def task(tmp_path_factory):
    return import_espnet(tmp_path_factory.mktemp("espnet"), "asr")


@pytest.mark.parametrize(
    ("changes", "decoder"),
    [
        ({}, False),
        ({"input_layer": "conv2d6"}, True),
        ({"input_layer": "conv2d8", "pos_enc_layer_type": "abs_pos", "selfattention_layer_type": "selfattn"}, False),
    ],
)
@torch.no_grad()
def test_conformer_encoder_and_head_agree(task, tmp_path, changes, decoder):
    tokenizer = train_tokenizer()
    options = conformer_options((*tokenizer.pieces[:-3], "<sos/eos>"), dim=64, num_blocks=3, decoder=decoder)
    options["encoder_conf"] |= changes
    espnet = build(task, options)
    source = write_folder(tmp_path / "espnet", espnet, options, tokenizer)
    if decoder:
        with pytest.raises(CheckpointError, match=r"decoder\..*--skip-decoder"):
            convert_espnet(source, tmp_path / "ours")
    report = convert_espnet(source, tmp_path / "ours", skip_decoder=decoder)
    skipped = [key.source for key in report.keys if key.destination is None]
    assert all(name.startswith("decoder.") for name in skipped)
    assert bool(skipped) == decoder
    loaded = load_model(tmp_path / "ours")
    assert loaded.tokenizer.pieces[-1] == "<eos>"

    leaky_config = loaded.model.encoder.config.model_copy(update={"leaky_padding": True})
    leaky = Encoder(leaky_config, 80).eval()
    leaky.load_state_dict(loaded.model.encoder.state_dict())
    for sizes in ([150, 99, 60], [23]):
        feat_lens = torch.tensor(sizes)
        feats = zero_padding(torch.randn(len(sizes), max(sizes), 80), valid_mask(feat_lens, max(sizes)))
        theirs, their_lens, _ = espnet.encoder(feats, feat_lens)
        ours, our_lens = leaky(feats, feat_lens)
        assert our_lens.tolist() == their_lens.tolist()
        for b, n in enumerate(our_lens.tolist()):
            torch.testing.assert_close(ours[b, :n], theirs[b, :n], atol=1e-4, rtol=0.0)

    wavs = [torch.from_numpy(speechlike(seconds)) for seconds in (4.0, 2.3456)]
    lens = torch.tensor([wav.numel() for wav in wavs])
    batch = loaded.model.encode(torch.nn.utils.rnn.pad_sequence(wavs, batch_first=True), lens)
    for i, wav in enumerate(wavs):
        enc, enc_lens = espnet.encode(wav[None], lens[i : i + 1])
        n = int(batch.lens[i])
        assert n == int(enc_lens)
        torch.testing.assert_close(batch.enc[i, :n], enc[0], atol=1e-4, rtol=0.0)
        torch.testing.assert_close(batch.log_probs[i, :n], espnet.ctc.log_softmax(enc)[0], atol=1e-4, rtol=0.0)
