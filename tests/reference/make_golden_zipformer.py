"""Write golden/zipformer.npz: a tiny random Zipformer with a CTC head of icefall's code, and what it makes of noise.

    python -m tests.reference.make_golden_zipformer CLONE

CLONE is a working copy of k2-fsa/icefall (revision 36e0420); ``egs/librispeech/ASR/zipformer`` needs torch and numpy.
Two modules are replaced: k2, of which it takes the Swoosh functions (those of its own ``scaling.py`` stand in), and
icefall itself, of which it takes a context manager for training. Weights are rounded to float16 before use, so that the
file holds exactly the weights that were used.
"""

import contextlib
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import torch

GOLDEN_PATH = Path(__file__).parent / "golden" / "zipformer.npz"
VOCAB_SIZE, NUM_MELS = 20, 80
LENS = (97, 60, 31, 9)
SIZES: dict[str, Any] = {
    "downsampling_factor": (1, 2, 4),
    "encoder_dim": (16, 32, 24),
    "num_encoder_layers": (1, 2, 1),
    "encoder_unmasked_dim": (16, 16, 16),
    "query_head_dim": (8,),
    "pos_head_dim": (4,),
    "value_head_dim": (6,),
    "num_heads": (4, 4, 8),
    "feedforward_dim": (32, 48, 24),
    "cnn_module_kernel": (7, 5, 3),
    "pos_dim": 12,
    "dropout": 0.0,
}


def import_zipformer(clone: Path) -> tuple[types.ModuleType, types.ModuleType]:
    """Return the modules of the encoder and of its subsampling."""
    k2, icefall, utils = (types.ModuleType(name) for name in ("k2", "icefall", "icefall.utils"))
    utils.torch_autocast = contextlib.nullcontext  # type: ignore[attr-defined]  # a stand-in
    sys.modules |= {"k2": k2, "icefall": icefall, "icefall.utils": utils}
    sys.path.insert(0, str(clone / "egs/librispeech/ASR/zipformer"))
    import scaling
    import subsampling
    import zipformer

    k2.swoosh_l_forward, k2.swoosh_r_forward = scaling.SwooshLForward, scaling.SwooshRForward
    return zipformer, subsampling


def main() -> None:
    zipformer, subsampling = import_zipformer(Path(sys.argv[1]))
    torch.manual_seed(0)
    embed = subsampling.Conv2dSubsampling(
        NUM_MELS, SIZES["encoder_dim"][0], layer1_channels=2, layer2_channels=4, layer3_channels=6, dropout=0.0
    )
    encoder = zipformer.Zipformer2(**SIZES)
    head = torch.nn.Sequential(
        torch.nn.Dropout(0.1), torch.nn.Linear(max(SIZES["encoder_dim"]), VOCAB_SIZE), torch.nn.LogSoftmax(dim=-1)
    )
    model = torch.nn.ModuleDict({"encoder_embed": embed, "encoder": encoder, "ctc_output": head}).eval()
    with torch.no_grad():
        for parameter in model.parameters():  # away from where they start, and from one another
            spread = 0.2 if parameter.dim() < 2 else 0.5 * parameter.std()
            parameter.copy_((parameter + spread * torch.randn_like(parameter)).half().float())
        feats = torch.randn(len(LENS), max(LENS), NUM_MELS).mul(2).sub(6).half().float()
        outputs = {}
        for row, num_frames in enumerate(LENS):  # each alone: theirs sees padding
            lens = torch.tensor([num_frames])
            x, x_lens = embed(feats[row : row + 1, :num_frames], lens)
            mask = torch.zeros(1, x.size(1), dtype=torch.bool)
            enc, enc_lens = encoder(x.permute(1, 0, 2), x_lens, mask)
            assert int(enc_lens) == enc.size(0)
            outputs[f"enc/{row}"] = enc[:, 0].numpy()
            outputs[f"log_probs/{row}"] = head(enc)[:, 0].numpy()
    weights = {f"state/{name}": value.numpy().astype(np.float16) for name, value in model.state_dict().items()}
    np.savez_compressed(GOLDEN_PATH, feats=feats.numpy().astype(np.float16), lens=np.array(LENS), **weights, **outputs)
    print(GOLDEN_PATH, GOLDEN_PATH.stat().st_size, "bytes")


if __name__ == "__main__":
    main()
