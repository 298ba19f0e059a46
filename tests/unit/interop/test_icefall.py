"""icefall's Zipformer: as its own code computes it, from the files that are published; and what is refused."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch

from speechnar import Transcriber
from speechnar.errors import CheckpointError, ConfigError, DataError, ModelNotFoundError
from speechnar.interop import convert, family_of
from speechnar.interop.family import FolderListing, check_wanted
from speechnar.interop.icefall import ICEFALL, convert_icefall
from speechnar.models.asr.owsm_ctc import OwsmCtcConfig
from speechnar.models.base import load_model
from speechnar.nn.context import Chunking
from speechnar.text.sentencepiece_model import build_sentencepiece
from tests.unit.tiny import speechlike

GOLDEN_PATH = Path(__file__).parents[2] / "reference" / "golden" / "zipformer.npz"
PIECES = ("<blk>", "<sos/eos>", "<unk>", "▁", *"abcdefghijklmnop")
BLOCK = "encoder.encoders.0.layers.0"
TOLERANCE = {"atol": 1e-4, "rtol": 0.0}


@pytest.fixture(scope="module")
def golden():
    with np.load(GOLDEN_PATH, allow_pickle=False) as file:
        return dict(file)


@pytest.fixture
def state(golden):
    """Weights of a tiny model that icefall built."""
    return {name[6:]: torch.from_numpy(value).float() for name, value in golden.items() if name.startswith("state/")}


def write(folder, state, *, name="exp/pretrained.pt", bpe="data/lang_bpe_500/bpe.model", pieces=PIECES):
    for path in (folder / name, folder / bpe):
        path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"model": state}, folder / name)
    (folder / bpe).write_bytes(
        build_sentencepiece(pieces, [-float(i) for i in range(len(pieces))], controls=("<blk>", "<sos/eos>"))
    )
    return folder


@torch.no_grad()
def test_the_encoder_and_its_head_are_those_of_icefall(golden, state, tmp_path):
    decoder = {"decoder.embedding.weight": torch.ones(2), "joiner.output_linear.bias": torch.ones(2)}
    source = write(tmp_path / "theirs", state | decoder)
    report = convert(source, tmp_path / "ours")
    assert [key.source for key in report.keys] == [*state, *decoder]
    skipped = [key.source for key in report.keys if key.destination is None]
    unused = {name for name in state if re.search(r"layers\.\d+\.bypass_scale$", name)}
    assert len(unused) == 4  # a scale of each block that nothing reads
    assert set(skipped) == {*decoder, *unused}
    loaded = load_model(tmp_path / "ours")
    assert loaded.tokenizer.pieces[:4] == ("<blank>", "<eos>", "<unk>", "▁")
    feats, lens = torch.from_numpy(golden["feats"]).float(), torch.from_numpy(golden["lens"])
    for row, num_frames in enumerate(lens.tolist()):
        feats[row, num_frames:] = torch.nan
    out = loaded.model.encode_features(feats, lens)
    for row, length in enumerate(out.lens.tolist()):
        enc, log_probs = (torch.from_numpy(golden[f"{name}/{row}"]) for name in ("enc", "log_probs"))
        assert length == len(enc)
        torch.testing.assert_close(out.enc[row, :length], enc, **TOLERANCE)
        torch.testing.assert_close(out.log_probs[row, :length], log_probs, **TOLERANCE)


@torch.no_grad()
def test_the_text_is_that_of_icefall(golden, state, tmp_path):
    """Its greedy search, of its log-probabilities under a steep head, by a SentencePiece model as it trains them."""
    steep = {f"ctc_output.1.{name}": torch.from_numpy(golden[f"steep/{name}"]).float() for name in ("weight", "bias")}
    source = write(tmp_path / "theirs", state | steep)
    (source / "data/lang_bpe_500/bpe.model").write_bytes(golden["bpe_model"].tobytes())
    convert(source, tmp_path / "ours")
    loaded = load_model(tmp_path / "ours")
    out = loaded.model.encode_features(torch.from_numpy(golden["feats"]).float(), torch.from_numpy(golden["lens"]))
    texts = [loaded.tokenizer.decode(tokens).split() for tokens in loaded.model.best_tokens(out)]
    assert texts == [str(golden[f"text/{row}"]).split() for row in range(len(texts))]
    assert [len(text) for text in texts] == [4, 3, 1, 1]
    for row, length in enumerate(out.lens.tolist()):
        log_probs = torch.from_numpy(golden[f"steep_log_probs/{row}"])
        torch.testing.assert_close(out.log_probs[row, :length], log_probs, **TOLERANCE)


def test_what_a_zipformer_has_not_is_refused(state, tmp_path):
    convert_icefall(write(tmp_path / "theirs", state), tmp_path / "ours")
    loaded = load_model(tmp_path / "ours")
    with pytest.raises(ConfigError, match="sees the whole utterance; leave out chunking"):
        loaded.model.encode(torch.zeros(1, 8000), torch.tensor([8000]), chunking=Chunking(chunk_frames=4))
    values = loaded.config.model_dump() | {"interctc_layers": (1,), "interctc_asr_only": (False,)}
    with pytest.raises(ValueError, match="neither intermediate heads nor a prompt"):
        OwsmCtcConfig(**values)


@pytest.mark.parametrize("name", ["exp/pretrained.pt", "exp/epoch-50-avg-24.pt", "pretrained.pt"])
def test_published_folders_transcribe(state, tmp_path, name):
    source = write(tmp_path / "theirs", state, name=name)
    for other in ("README.md", "decoding_results/log", "exp/jit_script.pt", "exp/tensorboard/events", "log/x.pt"):
        (source / other).parent.mkdir(exist_ok=True)
        (source / other).write_text("")
    listing = FolderListing(source)
    assert family_of(listing) is ICEFALL
    assert set(check_wanted(ICEFALL, listing)) == {name, "data/lang_bpe_500/bpe.model", "README.md"}
    convert_icefall(source, tmp_path / "ours")
    transcriber = Transcriber.load(tmp_path / "ours")
    for seconds in (0.02, 2.0):
        transcript = transcriber.transcribe(speechlike(seconds), sample_rate=16000, word_timestamps=True)
        assert all(0 <= word.start <= word.end <= seconds for s in transcript.segments for word in s.words)


def test_published_sizes_are_read_from_shapes(state, tmp_path):
    convert_icefall(write(tmp_path / "theirs", state), tmp_path / "ours")
    encoder = load_model(tmp_path / "ours").config.encoder
    assert encoder.model_dims == (16, 32, 24)
    assert encoder.layers_of_stacks == (1, 2, 1)
    assert encoder.downsampling == (1, 2, 4)
    assert encoder.heads_of_stacks == (4, 4, 8)
    assert encoder.ff_dims == (32, 48, 24)
    assert encoder.kernel_sizes == (7, 5, 3)
    assert (encoder.query_head_dim, encoder.value_head_dim, encoder.position_dim) == (8, 6, 12)
    assert encoder.subsampling_channels == (2, 4, 6)


@pytest.mark.parametrize(
    ("spoil", "error", "message"),
    [
        (lambda s: s.update({"encoder.new.weight": torch.ones(1)}), CheckpointError, "no counterpart: encoder.new"),
        (lambda s: s.pop("encoder.downsample_output.bias"), CheckpointError, "1 missing: encoder.halving.weight"),
        (lambda s: s.pop("ctc_output.1.bias"), CheckpointError, "has no CTC head"),
        (
            lambda s: s.update({f"{BLOCK}.conv_module1.depthwise_conv.causal_conv.bias": torch.ones(1)}),
            ConfigError,
            "streaming Zipformer",
        ),
        (lambda s: s.update({"encoder_embed.out_norm.bias": torch.ones(3)}), CheckpointError, "of another shape"),
    ],
)
def test_weights_that_do_not_fit_are_named(state, tmp_path, spoil, error, message):
    spoil(state)
    with pytest.raises(error, match=message):
        convert_icefall(write(tmp_path / "theirs", state), tmp_path / "ours")
    assert not (tmp_path / "ours").exists()


def test_vocabularies_and_files_that_do_not_fit_are_named(state, tmp_path):
    source = write(tmp_path / "theirs", state, pieces=PIECES[:-1])
    with pytest.raises(DataError, match="must hold 20 pieces, as the head has, got 19"):
        convert_icefall(source, tmp_path / "ours")
    (source / "data/lang_bpe_500/bpe.model").write_bytes(b"no model")
    with pytest.raises(DataError, match="must be a SentencePiece model"):
        convert_icefall(source, tmp_path / "ours")
    (source / "exp/pretrained.pt").rename(source / "exp/epoch-1.pt")
    (source / "exp/epoch-2.pt").write_bytes(b"")
    with pytest.raises(ModelNotFoundError, match="found 2 and 1"):
        convert_icefall(source, tmp_path / "ours")
