"""Write golden/zipformer.npz: a tiny random Zipformer with a CTC head of icefall's code, and what it makes of noise.

    python -m tests.reference.make_golden_zipformer CLONE

CLONE is a working copy of k2-fsa/icefall (revision 36e0420); ``egs/librispeech/ASR/zipformer`` needs torch and numpy.
Two modules are replaced: k2, of which it takes the Swoosh functions (those of its own ``scaling.py`` stand in), and
icefall itself, of which it takes a context manager for training. Weights are rounded to float16 before use, so that the
file holds exactly the weights that were used.

Random weights say the same at all times. Texts are therefore those of a second, steep head, whose mean over time says
nothing and which knows neither ``<sos/eos>`` nor ``<unk>``, as a trained one; they come from ``ctc_greedy_search`` of
icefall's ``decode.py``, without the rest of that module, and from a SentencePiece model with the settings of
``train_bpe_model.py``.
"""

import ast
import contextlib
import io
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import sentencepiece
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


SENTENCES = ("a bad cab", "he had a fad", "cage a hag", "a big head", "if he did", "dab a gab", "each idea", "bigger")


def train_subwords() -> bytes:
    """Return a SentencePiece model as ``train_bpe_model.py`` trains it."""
    written = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(SENTENCES),
        model_writer=written,
        vocab_size=VOCAB_SIZE,
        model_type="unigram",
        character_coverage=1.0,
        user_defined_symbols=["<blk>", "<sos/eos>"],
        unk_id=2,
        bos_id=-1,
        eos_id=-1,
        minloglevel=2,
    )
    return written.getvalue()


def import_greedy_search(clone: Path) -> Callable[[torch.Tensor, torch.Tensor], list[list[int]]]:
    """Return ``ctc_greedy_search``; the module that it stands in needs k2."""
    tree = ast.parse((clone / "icefall/decode.py").read_text(encoding="utf-8"))
    tree.body = [node for node in tree.body if getattr(node, "name", "") == "ctc_greedy_search"]
    names: dict[str, Any] = {"torch": torch, "List": list}
    exec(compile(tree, "decode.py", "exec"), names)  # icefall's own code, from the clone that was given
    found: Callable[[torch.Tensor, torch.Tensor], list[list[int]]] = names["ctc_greedy_search"]
    return found


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
        encs = [torch.from_numpy(outputs[f"enc/{row}"]) for row in range(len(LENS))]
        steep = torch.randn(VOCAB_SIZE, encs[0].size(1)).mul(4).half().float()
        steep[1:3] = 0.0
        bias = -(torch.cat(encs) @ steep.T).mean(0)
        bias[1:3] = -30.0
        bias = bias.half().float()
        subwords = train_subwords()
        bpe_model = sentencepiece.SentencePieceProcessor(model_proto=subwords)
        outputs |= {"bpe_model": np.frombuffer(subwords, np.uint8)}
        outputs |= {"steep/weight": steep.numpy().astype(np.float16), "steep/bias": bias.numpy().astype(np.float16)}
        greedy_search = import_greedy_search(Path(sys.argv[1]))
        for row, enc in enumerate(encs):
            log_probs = torch.nn.functional.linear(enc, steep, bias).log_softmax(-1)
            (tokens,) = greedy_search(log_probs[None], torch.tensor([len(enc)]))
            outputs |= {f"steep_log_probs/{row}": log_probs.numpy(), f"text/{row}": np.array(bpe_model.decode(tokens))}
            print(repr(bpe_model.decode(tokens)))
    weights = {f"state/{name}": value.numpy().astype(np.float16) for name, value in model.state_dict().items()}
    np.savez_compressed(GOLDEN_PATH, feats=feats.numpy().astype(np.float16), lens=np.array(LENS), **weights, **outputs)
    print(GOLDEN_PATH, GOLDEN_PATH.stat().st_size, "bytes")


if __name__ == "__main__":
    main()
