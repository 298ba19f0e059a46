"""What ESPnet computed, compared where ESPnet is not installed."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from speechnar.decode.ctc import greedy
from speechnar.interop.espnet_names import check_fit, map_state
from speechnar.interop.espnet_options import parse_options
from speechnar.models.asr.owsm_ctc import OwsmCtc
from speechnar.text.tokenizer import CharTokenizer


@pytest.fixture(scope="module")
def golden():
    with np.load(Path(__file__).parent / "golden" / "owsm_ctc.npz", allow_pickle=False) as file:
        return dict(file)


@torch.no_grad()
def test_owsm_ctc_equals_the_reference(golden):
    options = parse_options(json.loads(str(golden["options"])))
    weights = {name[6:]: torch.from_numpy(value) for name, value in golden.items() if name.startswith("state/")}
    state, _ = map_state(weights)
    model = OwsmCtc(options.to_config(), CharTokenizer(options.pieces())).eval()
    check_fit(model, state)
    model.load_state_dict(state)
    wav = torch.from_numpy(golden["pcm"].astype(np.float32) / 32768)[None]
    lens = torch.tensor([wav.size(1)])
    feats, _ = model.features(wav, lens)
    prompt = torch.from_numpy(golden["prompt"])
    out = model.encode(
        wav, lens, prefix=torch.from_numpy(golden["prefix"]), prompt=prompt, prompt_lens=torch.tensor([5])
    )
    ours = {
        "feats": feats[0],
        "enc": out.enc[0],
        "log_probs": out.log_probs[0],
        "inter_log_probs": torch.cat(out.inter_log_probs),
    }
    for name, value in ours.items():
        torch.testing.assert_close(value, torch.from_numpy(golden[name]), atol=1e-4, rtol=0.0)
    assert greedy(out.log_probs, out.lens, model.blank_id)[0].tokens == golden["tokens"].tolist()
