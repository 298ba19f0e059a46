"""Granite Speech 5.0 TurboCTC here and in transformers: random weights of the published layout, from samples to text,
alone and in a batch; and the published size, whose tensors all have their place."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from speechnar import Transcriber
from speechnar.config import parse_config
from speechnar.errors import CheckpointError
from speechnar.interop import convert
from speechnar.interop import transformers as interop
from speechnar.interop.espnet_names import check_fit
from speechnar.interop.granite import GRANITE_NAMES, GraniteOptions, convert_granite
from speechnar.models.asr.owsm_ctc import OwsmCtc
from speechnar.models.base import load_model
from speechnar.text.tokenizer import BLANK, UNK, CharTokenizer
from tests.reference.test_transformers_ctc import RATE, clips, randomize
from tests.unit.tiny import TEXTS, speechlike

pytestmark = pytest.mark.slow

SIZES = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "context_size": 16,
    "max_position_embeddings": 20,
}
VOCAB = 300


@pytest.fixture(scope="module")
def transformers():
    module = pytest.importorskip("transformers", reason="needs transformers, of the extra t5")
    pytest.importorskip("torchaudio", reason="needs torchaudio, with which transformers computes Granite's features")
    if not hasattr(module, "GraniteSpeech5ForCTC"):
        pytest.skip(f"needs a transformers with GraniteSpeech5ForCTC, not {module.__version__}")
    return module


def save_granite(transformers, folder, **options):
    """Write what is published of a small model with random weights: a byte-level BPE whose first piece is the blank."""
    tokenizers = pytest.importorskip("tokenizers", reason="needs tokenizers, of the extra t5")
    inner = tokenizers.Tokenizer(tokenizers.models.BPE())
    inner.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = tokenizers.decoders.ByteLevel()
    alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=VOCAB, special_tokens=["<|blank|>"], initial_alphabet=alphabet, show_progress=False
    )
    inner.train_from_iterator([f" {text}" for text in TEXTS], trainer)
    tokenizer = transformers.ParakeetTokenizer(tokenizer_object=inner, pad_token="<|blank|>")
    vocab_size = inner.get_vocab_size()
    assert tokenizer.pad_token_id == 0
    encoder = transformers.GraniteSpeech5EncoderConfig(vocab_size=vocab_size, **SIZES | options)
    config = transformers.GraniteSpeech5CTCConfig(vocab_size=vocab_size, encoder_config=encoder)
    torch.manual_seed(0)
    model = randomize(transformers.GraniteSpeech5ForCTC(config))
    with torch.no_grad():  # bytes that are no text by themselves are shown otherwise there
        strange = [i for piece, i in inner.get_vocab().items() if i and not piece.lstrip("Ġ").isalpha()]
        strange += [i for piece, i in inner.get_vocab().items() if i and not piece.lstrip("Ġ").isascii()]
        model.ctc_head.bias[strange] = -30.0
    processor = transformers.GraniteSpeech5Processor(transformers.GraniteSpeech5FeatureExtractor(), tokenizer)
    for part in (model, processor):
        part.save_pretrained(folder)
    return model, processor


@pytest.mark.parametrize(
    "options",
    [{}, {"subsample_layers": [1], "attention_bias": False, "context_size": 7, "num_hidden_layers": 3}],
    ids=["published", "otherwise"],
)
@torch.no_grad()
def test_granite(transformers, tmp_path, options):
    model, processor = save_granite(transformers, tmp_path / "theirs", **options)
    report = convert(tmp_path / "theirs", tmp_path / "ours")
    published = load_file(tmp_path / "theirs" / "model.safetensors")
    assert [key.source for key in report.keys] == list(published)
    assert all(key.destination for key in report.keys)
    loaded = load_model(tmp_path / "ours")
    # The last one has an odd number of frames and ends on one, where a silent sample is added.
    wavs = [*clips(), speechlike(1.01)]
    wav = torch.nn.utils.rnn.pad_sequence([torch.from_numpy(clip) for clip in wavs], batch_first=True)
    out = loaded.model.encode(wav, torch.tensor([len(clip) for clip in wavs]))
    halved = len(options.get("subsample_layers", [0, 1]))
    assert loaded.model.frame_shift_s == pytest.approx(0.02 * 2**halved)
    vocab_size = model.config.vocab_size
    assert loaded.tokenizer.vocab_size == vocab_size + 1  # theirs has no <unk>
    for row, (clip, length) in enumerate(zip(wavs, out.lens.tolist(), strict=True)):
        inputs = processor(clip, sampling_rate=RATE, return_tensors="pt")
        log_probs = model(**inputs).logits.log_softmax(2)
        assert log_probs.size(1) == length
        torch.testing.assert_close(out.log_probs[row, :length, :vocab_size], log_probs[0], atol=1e-4, rtol=0)
        (expected,) = processor.batch_decode(model.generate(**inputs), skip_special_tokens=True)
        text = loaded.tokenizer.decode(loaded.model.best_tokens(out)[row])
        assert text.split() == expected.split() != []
    transcripts = Transcriber.load(tmp_path / "ours").transcribe(wavs, sample_rate=RATE, word_timestamps=True)
    for transcript, clip, tokens in zip(transcripts, wavs, loaded.model.best_tokens(out), strict=True):
        assert transcript.text == " ".join(loaded.tokenizer.decode(tokens).split())
        words = [word for segment in transcript.segments for word in segment.words]
        assert all(0 <= word.start <= word.end <= len(clip) / RATE for word in words)
    for text in TEXTS:
        assert loaded.tokenizer.encode(text) == processor.tokenizer(f" {text}", add_special_tokens=False).input_ids


def test_a_head_beside_its_twin_must_be_the_same(transformers, tmp_path):
    save_granite(transformers, tmp_path / "theirs")
    path = tmp_path / "theirs" / "model.safetensors"
    state = load_file(path)
    assert not any(name.startswith("ctc_head") for name in state)
    for part in ("weight", "bias"):
        state[f"ctc_head.{part}"] = state[f"encoder.out.{part}"].clone()
    save_file(state, path)
    report = convert_granite(tmp_path / "theirs", tmp_path / "ours")
    assert {key.destination for key in report.keys if key.source.startswith("ctc_head")} == {
        "ctc.proj.weight",
        "ctc.proj.bias",
    }
    state["ctc_head.bias"] += 1.0
    save_file(state, path)
    with pytest.raises(CheckpointError, match=r"ctc_head\.bias must be encoder\.out\.bias"):
        convert_granite(tmp_path / "theirs", tmp_path / "other")


def test_every_tensor_of_the_published_model_has_its_place(transformers):
    """ibm-granite/granite-speech-5.0-470m-turboctc: 550 tensors, 472,993,792 of their elements parameters or means."""
    config = transformers.GraniteSpeech5CTCConfig()
    options = parse_config(json.loads(config.to_json_string(use_diff=False)), GraniteOptions, source="granite")
    pieces = [*(chr(0x4E00 + i) for i in range(options.vocab_size - 2)), UNK, BLANK]
    with torch.device("meta"):
        theirs = transformers.GraniteSpeech5ForCTC(config).state_dict()
        ours = OwsmCtc(options.to_config(), CharTokenizer(pieces))
        tied = [name for name in theirs if name.startswith("ctc_head")]
        state, keys = interop.map_names(
            {name: tensor for name, tensor in theirs.items() if name not in tied}, GRANITE_NAMES, source="granite"
        )
    assert len(keys) == 550
    assert all(key.destination for key in keys)
    absent = {name for name in ours.state_dict() if name.endswith(("qkv.bias", "depthwise.bias", "mel_matrix"))}
    check_fit(ours, state | {name: ours.state_dict()[name] for name in absent})
    floats = [tensor.numel() for name, tensor in state.items() if not name.endswith("num_batches_tracked")]
    assert sum(floats) == pytest.approx(472_993_792, abs=200_000)
