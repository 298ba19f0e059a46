"""wav2vec 2.0 and HuBERT here and in transformers, on random weights, alone and in a batch, and what is heard of them.

Real weights are found through ``SPEECHNAR_WAV2VEC2``, a folder that `convert_wav2vec2` reads.
"""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from speechnar.interop.wav2vec2 import convert_wav2vec2
from speechnar.models.base import load_model
from speechnar.nn.frontend import normalized_features
from tests.unit.interop.test_wav2vec2 import PIECES
from tests.unit.tiny import speechlike

pytestmark = pytest.mark.slow

SIZES = {
    "hidden_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 96,
    "conv_dim": [32] * 7,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
    "vocab_size": len(PIECES),
    "num_codevectors_per_group": 8,
    "codevector_dim": 16,
    "proj_codevector_dim": 16,
}
BASE = {}
LARGE = {"do_stable_layer_norm": True, "feat_extract_norm": "layer", "conv_bias": True}
MIXED = {"do_stable_layer_norm": False, "feat_extract_norm": "layer", "conv_bias": True, "num_conv_pos_embeddings": 15}
LENS = (20000, 13111, 6400)


@pytest.fixture(scope="module")
def transformers():
    return pytest.importorskip("transformers", reason="needs transformers, of the extra t5")


def build(transformers, name, options, seed=0):
    """Return a model of transformers' with weights that all differ, biases and norms included."""
    family = name.removesuffix("Model").partition("For")[0]
    torch.manual_seed(seed)
    sizes = SIZES if family == "Wav2Vec2" else {k: v for k, v in SIZES.items() if "codevector" not in k}
    model = getattr(transformers, name)(getattr(transformers, f"{family}Config")(**sizes | options)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model


def save(model, folder):
    model.save_pretrained(folder)
    (folder / "vocab.json").write_text(json.dumps({piece: i for i, piece in enumerate(PIECES)}))
    return folder


def make_wav():
    wav = torch.zeros(len(LENS), max(LENS))
    for row, size in enumerate(LENS):
        samples = torch.from_numpy(speechlike(2.0, seed=row)[:size])
        wav[row, :size] = (samples - samples.mean()) / samples.std(correction=0)
    return wav


def encoder_of(model):
    return model.encoder.pretrained if hasattr(model, "ctc") else model.encoder


@pytest.mark.parametrize("options", [BASE, LARGE, MIXED], ids=["base", "large", "mixed"])
@pytest.mark.parametrize(
    "name", ["Wav2Vec2Model", "Wav2Vec2ForPreTraining", "Wav2Vec2ForCTC", "HubertModel", "HubertForCTC"]
)
@torch.no_grad()
def test_states_agree_on_random_weights(transformers, tmp_path, name, options):
    """Each utterance alone: there, a group norm counts padding, which is why its models are given no mask."""
    theirs = build(transformers, name, options)
    report = convert_wav2vec2(save(theirs, tmp_path / "theirs"), tmp_path / "ours")
    assert {key.source for key in report.keys} == set(theirs.state_dict())
    skipped = {key.source for key in report.keys if key.destination is None}
    assert all(key.startswith(("quantizer.", "project_")) for key in skipped)
    assert bool(skipped) == (name == "Wav2Vec2ForPreTraining")
    model = load_model(tmp_path / "ours").model
    encoder, inner = encoder_of(model), getattr(theirs, theirs.base_model_prefix, theirs)
    wav, lens = make_wav(), torch.tensor(LENS)
    states, state_lens = encoder(*encoder.frozen(wav[..., None], lens))
    assert state_lens.tolist() == theirs._get_feat_extract_output_lengths(lens).tolist()
    for row, size in enumerate(LENS):
        expected = inner(wav[row : row + 1, :size]).last_hidden_state[0]
        assert len(expected) == state_lens[row]
        torch.testing.assert_close(states[row, : len(expected)], expected, atol=1e-5, rtol=1e-5)
        if name.endswith("CTC"):
            logits = theirs(wav[row : row + 1, :size]).logits[0]
            log_probs = model.ctc(states[row : row + 1, : len(expected)])[0]
            torch.testing.assert_close(log_probs, logits.log_softmax(1), atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_in_a_batch_it_agrees_with_a_mask_and_not_without(transformers, tmp_path):
    """Ours are the states of the utterance alone; theirs are, with a layer norm and a mask, and else they are not."""
    wav, lens = make_wav(), torch.tensor(LENS)
    mask = (torch.arange(wav.size(1)) < lens[:, None]).long()
    differences = {}
    for kind, options in (("large", LARGE), ("base", BASE)):
        theirs = build(transformers, "Wav2Vec2Model", options)
        convert_wav2vec2(save(theirs, tmp_path / f"{kind}-theirs"), tmp_path / kind)
        encoder = encoder_of(load_model(tmp_path / kind).model)
        states, state_lens = encoder(*encoder.frozen(wav[..., None], lens))
        batch = theirs(wav, attention_mask=mask if kind == "large" else None).last_hidden_state
        differences[kind] = [
            float((states[row, :length] - batch[row, :length]).abs().max())
            for row, length in enumerate(state_lens.tolist())
        ]
    assert max(differences["large"]) < 1e-5
    assert differences["base"][0] < 1e-5  # the longest has no padding
    assert min(differences["base"][1:]) > 1e-2


@torch.no_grad()
def test_samples_are_normalised_as_by_their_feature_extractor(transformers, tmp_path):
    theirs = build(transformers, "Wav2Vec2ForCTC", LARGE)
    convert_wav2vec2(save(theirs, tmp_path / "theirs"), tmp_path / "ours")
    model = load_model(tmp_path / "ours").model
    extractor = transformers.Wav2Vec2FeatureExtractor(do_normalize=True, return_attention_mask=True)
    clips = [0.3 * speechlike(1.0, seed=0) + 0.05, 0.1 * speechlike(0.7, seed=1)]
    given = extractor(clips, sampling_rate=16000, padding=True, return_tensors="pt")
    wav = torch.nn.utils.rnn.pad_sequence([torch.from_numpy(np.asarray(c)) for c in clips], batch_first=True)
    lens = torch.tensor([len(c) for c in clips])
    feats, _ = normalized_features(model.frontend, model.normalizer, wav, lens)
    # Theirs adds 1e-7 to the variance; of speech at -30 dBFS that is 0.005 % of the deviation.
    torch.testing.assert_close(feats[..., 0], given.input_values, atol=2e-4, rtol=2e-4)
    expected = theirs(**given).logits.log_softmax(2)
    out = model.encode(wav, lens)
    for row, length in enumerate(out.lens.tolist()):
        torch.testing.assert_close(out.log_probs[row, :length], expected[row, :length], atol=1e-3, rtol=1e-3)


@torch.no_grad()
def test_states_agree_on_real_weights(transformers, tmp_path):
    folder = os.environ.get("SPEECHNAR_WAV2VEC2")
    if folder is None or not Path(folder).is_dir():
        pytest.skip("needs the weights of a wav2vec 2.0 or HuBERT in the folder that SPEECHNAR_WAV2VEC2 names")
    convert_wav2vec2(folder, tmp_path / "ours")
    encoder = encoder_of(load_model(tmp_path / "ours").model)
    theirs = transformers.AutoModel.from_pretrained(folder).eval()
    samples = torch.from_numpy(speechlike(5.0, seed=3))
    samples = ((samples - samples.mean()) / samples.std(correction=0))[None]
    found, _ = encoder(*encoder.frozen(samples[..., None], torch.tensor([samples.size(1)])))
    torch.testing.assert_close(found, theirs(samples).last_hidden_state, atol=1e-3, rtol=1e-3)
