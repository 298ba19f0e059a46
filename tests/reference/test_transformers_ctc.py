"""Parakeet-CTC, w2v-BERT 2.0 and MMS here and in transformers: random weights of the published layouts, from samples to
text, alone and in a batch; and the published sizes, whose tensors all have their place."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from speechnar import Transcriber
from speechnar.config import parse_config
from speechnar.interop import transformers as interop
from speechnar.interop.espnet_names import check_fit
from speechnar.interop.parakeet import PARAKEET_NAMES, ParakeetOptions, convert_parakeet
from speechnar.interop.wav2vec2 import convert_wav2vec2
from speechnar.interop.wav2vec2_bert import (
    PREFIXES,
    SKIPPED,
    WAV2VEC2_BERT_NAMES,
    WITHOUT_BIAS,
    Wav2Vec2BertOptions,
    convert_wav2vec2_bert,
)
from speechnar.models.asr.owsm_ctc import OwsmCtc
from speechnar.models.base import load_model
from speechnar.text.tokenizer import BLANK, UNK, CharTokenizer, SentencePieceTokenizer
from tests.unit.interop.test_wav2vec2 import PIECES
from tests.unit.tiny import TEXTS, speechlike

pytestmark = pytest.mark.slow

RATE, VOCAB = 16000, 40
SECONDS = (2.0, 1.31, 0.537)
PARAKEET = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 96,
    "subsampling_conv_channels": 16,
}
WAV2VEC2_BERT = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 96,
    "vocab_size": len(PIECES),
}
WAV2VEC2 = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 96,
    "conv_dim": [32] * 7,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
    "vocab_size": len(PIECES),
    "do_stable_layer_norm": True,
    "feat_extract_norm": "layer",
    "conv_bias": True,
}


@pytest.fixture(scope="module")
def transformers():
    module = pytest.importorskip("transformers", reason="needs transformers, of the extra t5")
    if not hasattr(module, "ParakeetForCTC"):
        pytest.skip(f"needs a transformers with ParakeetForCTC, not {module.__version__}")
    return module


def clips():
    return [(0.2 + 0.1 * i) * speechlike(seconds, seed=i).astype(np.float32) for i, seconds in enumerate(SECONDS)]


@torch.no_grad()
def randomize(model):
    """Make all weights differ, biases, norms and statistics included, and the posteriors peaky, without specials."""
    generator = torch.Generator().manual_seed(0)
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point():
            noise = 0.1 * torch.randn(tensor.shape, generator=generator)
            tensor.add_(noise.abs() if name.endswith("running_var") else noise)
    head = model.ctc_head if hasattr(model, "ctc_head") else model.lm_head
    head.weight.mul_(3.0)
    if head is getattr(model, "lm_head", None):
        head.bias[1:4] = -30.0  # <s>, </s> and <unk>, which they write and we do not
    return model.eval()


def save_parakeet(transformers, folder, **options):
    """Write what the script that made the published checkpoints writes, of a small model with random weights."""
    pytest.importorskip("google.protobuf", reason="transformers reads SentencePiece models by protobuf")
    from transformers.convert_slow_tokenizer import ParakeetConverter

    SentencePieceTokenizer.train(TEXTS, VOCAB + 4, model_type="bpe").save(folder / "spm")
    inner = ParakeetConverter(str(folder / "spm" / "tokenizer.model")).converted()
    tokenizer = transformers.ParakeetTokenizer(tokenizer_object=inner, clean_up_tokenization_spaces=False)
    tokenizer.add_special_tokens({"pad_token": "<pad>", "unk_token": "<unk>"})
    blank = tokenizer.pad_token_id
    encoder = transformers.ParakeetEncoderConfig(**PARAKEET | options)
    config = transformers.ParakeetCTCConfig(vocab_size=blank + 1, pad_token_id=blank, encoder_config=encoder)
    model = randomize(transformers.ParakeetForCTC(config))
    extractor = transformers.ParakeetFeatureExtractor(feature_size=encoder.num_mel_bins)
    processor = transformers.ParakeetProcessor(extractor, tokenizer)
    for part in (model, processor):
        part.save_pretrained(folder)
    return model, processor


def write_vocab(folder, vocab, **names):
    (folder / "vocab.json").write_text(json.dumps(vocab))
    names = {"word_delimiter_token": "|", "unk_token": "<unk>", "pad_token": "<pad>", **names}
    (folder / "tokenizer_config.json").write_text(json.dumps(names))


def check_same(model, processor, ours, report):
    """Log-probabilities of each utterance alone, and the same text; ours are the same in a batch."""
    assert {key.source for key in report.keys} == set(model.state_dict())
    loaded = load_model(ours)
    wavs = clips()
    wav = torch.nn.utils.rnn.pad_sequence([torch.from_numpy(clip) for clip in wavs], batch_first=True)
    lens = torch.tensor([len(clip) for clip in wavs])
    with torch.no_grad():
        out = loaded.model.encode(wav, lens)
        for row, (clip, length) in enumerate(zip(wavs, out.lens.tolist(), strict=True)):
            logits = model(**processor(clip, sampling_rate=RATE, return_tensors="pt")).logits[:, :length]
            torch.testing.assert_close(out.log_probs[row, :length], logits.log_softmax(2)[0], atol=1e-4, rtol=0)
            expected = processor.batch_decode(logits.argmax(2))[0]
            text = loaded.tokenizer.decode(loaded.model.best_tokens(out)[row])
            assert " ".join(text.split()) == " ".join(expected.split()) != ""
    transcripts = Transcriber.load(ours, precision="fp32").transcribe(wavs, sample_rate=RATE, word_timestamps=True)
    assert [" ".join(t.text.split()) for t in transcripts] == [
        " ".join(loaded.tokenizer.decode(tokens).split()) for tokens in loaded.model.best_tokens(out)
    ]
    for transcript, seconds in zip(transcripts, SECONDS, strict=True):
        words = [word for segment in transcript.segments for word in segment.words]
        assert " ".join(word.word for word in words).split() == transcript.text.split()
        assert all(0 <= word.start <= word.end <= seconds for word in words)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"scale_input": False, "attention_bias": False, "convolution_bias": False, "num_mel_bins": 128},
        {"subsampling_factor": 4},
    ],
    ids=["published", "without biases and scale", "4x"],
)
def test_parakeet(transformers, tmp_path, options):
    model, processor = save_parakeet(transformers, tmp_path / "theirs", **options)
    report = convert_parakeet(tmp_path / "theirs", tmp_path / "ours")
    check_same(model, processor, tmp_path / "ours", report)
    ours, theirs = load_model(tmp_path / "ours").tokenizer, processor.tokenizer
    for text in (*TEXTS, "the dog sat home", "a  catnap,  he said"):
        assert ours.encode(text) == theirs(text, add_special_tokens=False).input_ids


@pytest.mark.parametrize(
    ("positions", "num_adapters"), [("relative_key", 0), ("relative", 0), ("relative_key", 1), ("relative_key", 2)]
)
def test_wav2vec2_bert(transformers, tmp_path, positions, num_adapters):
    config = transformers.Wav2Vec2BertConfig(
        **WAV2VEC2_BERT,
        position_embeddings_type=positions,
        left_max_position_embeddings=7,
        right_max_position_embeddings=3,
        add_adapter=num_adapters > 0,
        num_adapter_layers=max(num_adapters, 1),
    )
    model = randomize(transformers.Wav2Vec2BertForCTC(config))
    model.save_pretrained(tmp_path / "theirs")
    write_vocab(tmp_path / "theirs", {piece: i for i, piece in enumerate(PIECES)})
    extractor = transformers.SeamlessM4TFeatureExtractor()
    extractor.save_pretrained(tmp_path / "theirs")
    tokenizer = transformers.Wav2Vec2CTCTokenizer(str(tmp_path / "theirs" / "vocab.json"))
    processor = transformers.Wav2Vec2BertProcessor(extractor, tokenizer)
    report = convert_wav2vec2_bert(tmp_path / "theirs", tmp_path / "ours")
    ours = load_model(tmp_path / "ours").model
    for clip in clips():
        given = processor(clip, sampling_rate=RATE, return_tensors="pt")
        num_frames = 2 * int(given.attention_mask.sum())
        assert num_frames % 4 == 0 or given.attention_mask.all()  # else their adapter sees a last half of a pair
        feats, lens = given.input_features.reshape(1, -1, 80), torch.tensor([num_frames])
        with torch.no_grad():
            out, theirs = ours.encode_features(feats, lens), model(**given).logits.log_softmax(2)
        length = int(out.lens)
        torch.testing.assert_close(out.log_probs[:, :length], theirs[:, :length], atol=1e-4, rtol=0)
    check_same(model, processor, tmp_path / "ours", report)


@pytest.mark.parametrize("do_normalize", [True, False])
@pytest.mark.parametrize("family", ["Wav2Vec2", "Hubert"])
def test_wav2vec2_and_hubert(transformers, tmp_path, family, do_normalize):
    """The group norm of base models sees no padding where utterances are alone, as they are here."""
    options = WAV2VEC2 if do_normalize else {**WAV2VEC2, "feat_extract_norm": "group", "do_stable_layer_norm": False}
    model = randomize(getattr(transformers, f"{family}ForCTC")(getattr(transformers, f"{family}Config")(**options)))
    model.save_pretrained(tmp_path / "theirs")
    write_vocab(tmp_path / "theirs", {piece: i for i, piece in enumerate(PIECES)})
    extractor = transformers.Wav2Vec2FeatureExtractor(do_normalize=do_normalize, return_attention_mask=do_normalize)
    extractor.save_pretrained(tmp_path / "theirs")
    tokenizer = transformers.Wav2Vec2CTCTokenizer(str(tmp_path / "theirs" / "vocab.json"))
    processor = transformers.Wav2Vec2Processor(extractor, tokenizer)
    report = convert_wav2vec2(tmp_path / "theirs", tmp_path / "ours")
    check_same(model, processor, tmp_path / "ours", report)


def test_a_language_of_mms(transformers, tmp_path):
    """Base weights with English in them, and an adapter and a vocabulary of another language."""
    folder = tmp_path / "theirs"
    config = transformers.Wav2Vec2Config(**WAV2VEC2, adapter_attn_dim=16)
    model = randomize(transformers.Wav2Vec2ForCTC(config))
    model.save_pretrained(folder)
    french = [*PIECES, "É", "À"]
    write_vocab(
        folder,
        {"eng": {p: i for i, p in enumerate(PIECES)}, "fra": {p: i for i, p in enumerate(french)}},
        target_lang="eng",
    )
    extractor = transformers.Wav2Vec2FeatureExtractor(do_normalize=True, return_attention_mask=True)
    extractor.save_pretrained(folder)
    generator = torch.Generator().manual_seed(1)
    adapter = {
        name: 0.3 * torch.randn(tensor.shape, generator=generator) for name, tensor in model._get_adapters().items()
    }
    adapter["lm_head.weight"] = torch.randn(len(french), 64, generator=generator)
    adapter["lm_head.bias"] = torch.randn(len(french), generator=generator)
    adapter["lm_head.bias"][1:4] = -30.0
    save_file(adapter, folder / "adapter.fra.safetensors")
    for language in (None, "fra"):
        report = convert_wav2vec2(folder, tmp_path / "ours", language=language)
        if language is not None:
            model = transformers.Wav2Vec2ForCTC.from_pretrained(
                folder, target_lang=language, ignore_mismatched_sizes=True
            ).eval()
        tokenizer = transformers.Wav2Vec2CTCTokenizer(str(folder / "vocab.json"), target_lang=language or "eng")
        processor = transformers.Wav2Vec2Processor(extractor, tokenizer)
        check_same(model, processor, tmp_path / "ours", report)
        spoken = Transcriber.load(tmp_path / "ours", precision="fp32").transcribe(clips()[0], sample_rate=RATE).language
        assert spoken == (language or "eng")


PUBLISHED_PARAKEET = {
    # nvidia/parakeet-ctc-0.6b and 1.1b; and the sizes of the 110M, whose checkpoint is of NeMo
    "0.11B": {"num_hidden_layers": 17, "hidden_size": 512, "intermediate_size": 2048},
    "0.6B": {"num_hidden_layers": 24, "hidden_size": 1024, "intermediate_size": 4096},
    "1.1B": {"num_hidden_layers": 42, "hidden_size": 1024, "intermediate_size": 4096},
}


@pytest.mark.parametrize("name", PUBLISHED_PARAKEET)
def test_every_tensor_of_a_published_parakeet_has_its_place(transformers, name):
    encoder = transformers.ParakeetEncoderConfig(**PUBLISHED_PARAKEET[name])
    config = transformers.ParakeetCTCConfig(encoder_config=encoder)
    options = parse_config(json.loads(config.to_json_string(use_diff=False)), ParakeetOptions, source=name)
    with torch.device("meta"):
        theirs = transformers.ParakeetForCTC(config)
        pieces = (UNK, *map(str, range(options.vocab_size - 2)), BLANK)
        ours = OwsmCtc(
            options.to_config(), CharTokenizer([*(chr(0x4E00 + i) for i in range(len(pieces) - 2)), UNK, BLANK])
        )
        state, keys = interop.map_names(theirs.state_dict(), PARAKEET_NAMES, source=name)
    assert all(key.destination for key in keys)
    state["frontend.mel_matrix"] = torch.empty(ours.frontend.mel_matrix.shape)
    check_fit(ours, state)
    count = sum(parameter.numel() for parameter in theirs.parameters())
    assert sum(parameter.numel() for parameter in ours.parameters()) == count
    assert count / 1e9 == pytest.approx(float(name[:-1]), rel=0.06)


def test_every_tensor_of_w2v_bert_has_its_place(transformers):
    """facebook/w2v-bert-2.0, fine-tuned with an adapter and a head of 40 characters, as most that are published."""
    config = transformers.Wav2Vec2BertConfig(vocab_size=40, add_adapter=True)
    options = parse_config(json.loads(config.to_json_string(use_diff=False)), Wav2Vec2BertOptions, source="w2v-BERT")
    with torch.device("meta"):
        theirs = transformers.Wav2Vec2BertForCTC(config)
        ours = OwsmCtc(options.to_config(), CharTokenizer([*(chr(0x4E00 + i) for i in range(38)), UNK, BLANK]))
        state, keys = interop.map_names(
            theirs.state_dict(), WAV2VEC2_BERT_NAMES, source="w2v-BERT", prefixes=PREFIXES, skipped=SKIPPED
        )
    assert [key.source for key in keys if key.destination is None] == ["wav2vec2_bert.masked_spec_embed"]
    absent = {name for name in ours.state_dict() if name.endswith(".bias") and any(p in name for p in WITHOUT_BIAS)}
    check_fit(ours, state | {name: ours.state_dict()[name] for name in absent - state.keys()})
