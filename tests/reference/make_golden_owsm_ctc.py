"""Write golden/owsm_ctc.npz: a tiny random OWSM-CTC of ESPnet 202511, its input, and what it makes of it.

    python -m tests.reference.make_golden_owsm_ctc

Weights are rounded to float16 before ESPnet uses them, so that the file holds exactly the weights it used.
"""

import json
import tempfile
from pathlib import Path

import numpy as np
import torch

from tests.reference.espnet_models import build, import_espnet, owsm_ctc_options, spread_tokens, write_stats
from tests.unit.tiny import speechlike

GOLDEN_PATH = Path(__file__).parent / "golden" / "owsm_ctc.npz"
PIECES = ("<blank>", "<unk>", "<na>", "<nolang>", "<eng>", "<deu>", "<asr>", "<st_deu>", "<space>", *"abcdefghijklmnop")


def main() -> None:
    scratch = Path(tempfile.mkdtemp())
    task = import_espnet(scratch)
    options = owsm_ctc_options(
        (*PIECES, "<sop>", "<sos>", "<eos>"),
        dim=16,
        num_blocks=3,
        heads=2,
        interctc=[1, 2],
        prompt_dim=12,
        prompt_blocks=1,
        num_mels=40,
        stats=write_stats(scratch / "stats.npz", 40),
    )
    options["token_type"] = "char"
    model = build(task, options)
    pcm = np.round(speechlike(1.2) * 32767 * 0.9).clip(-32768, 32767).astype(np.int16)
    wav = torch.from_numpy(pcm.astype(np.float32) / 32768)[None]
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(parameter.half())
        spread_tokens(model, wav)
        model.ctc.ctc_lo.bias.copy_(model.ctc.ctc_lo.bias.half())
        outputs = run(model, wav)
    options["normalize_conf"] = {}
    weights = {
        f"state/{name}": value.numpy().astype(np.float16) if is_parameter(model, name) else value.numpy()
        for name, value in model.state_dict().items()
    }
    np.savez_compressed(GOLDEN_PATH, options=json.dumps(options), pcm=pcm, **weights, **outputs)
    print(GOLDEN_PATH, GOLDEN_PATH.stat().st_size, "bytes;", "tokens", outputs["tokens"].tolist())


def is_parameter(model: torch.nn.Module, name: str) -> bool:
    return name in dict(model.named_parameters())


def run(model: torch.nn.Module, wav: torch.Tensor) -> dict[str, np.ndarray]:
    """Return the outputs for a German translation after a previous text of five tokens."""
    lens = torch.tensor([wav.size(1)])
    feats, feat_lens = model._extract_feats(wav, lens)
    feats, _ = model.normalize(feats.clone(), feat_lens)
    prompt = torch.tensor([[10, 8, 14, 9, 20]])
    prefix = torch.tensor([[PIECES.index("<eng>"), PIECES.index("<st_deu>")]])
    (enc, inter), _ = model.encode(wav, lens, prompt.clone(), torch.tensor([5]), prefix, torch.tensor([2]))
    log_probs = [model.ctc.log_softmax(x)[0].numpy() for x in (enc, *(x for _, x in inter))]
    best = torch.unique_consecutive(torch.from_numpy(log_probs[0]).argmax(-1))
    return {
        "prompt": prompt.numpy(),
        "prefix": prefix.numpy(),
        "feats": feats[0].numpy(),
        "enc": enc[0].numpy(),
        "log_probs": log_probs[0],
        "inter_log_probs": np.stack(log_probs[1:]),
        "tokens": best[best != model.blank_id].numpy(),
    }


if __name__ == "__main__":
    main()
