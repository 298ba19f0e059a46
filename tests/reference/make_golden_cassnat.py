"""Write golden/cassnat.npz and golden/unienc.npz: tiny random models of the authors' code, and what they make of noise.

    python -m tests.reference.make_golden_cassnat CLONE

CLONE is a working copy of Diamondfan/cassnat_asr (revision a3a7a77); its model code needs torch and editdistance.
Two things are replaced: the vendored fairseq, which only the HuBERT encoder needs and which does not import on Python
3.11, and `Tensor.cuda`, which their trigger mask calls whatever the device. Weights are rounded to float16 before use,
so that the files hold exactly the weights that were used.
"""

import json
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import torch

GOLDEN = Path(__file__).parent / "golden"
VOCAB_SIZE, NUM_MELS, NUM_FRAMES = 24, 20, 150
TOKENS = [7, 12, 12, 5, 20, 9]
OPTIONS: dict[str, Any] = {
    "model_type": "conformer",
    "input_size": NUM_MELS,
    "n_features": NUM_MELS,
    "N_enc": 3,
    "N_extra": 1,
    "d_model": 16,
    "d_ff": 48,
    "n_head": 2,
    "dropout": 0.1,
    "ctc_alpha": 0.5,
    "interctc_alpha": 0.5,
    "interctc_layer": 2,
    "att_alpha": 1,
    "interce_alpha": 0.1,
    "interce_layer": 2,
    "label_smooth": 0.1,
    "use_conv_enc": True,
    "share_ff": False,
    "d_encff": 32,
    "d_decff": 32,
    "pos_type": "relative",
    "enc_max_relative_len": 5,
    "enc_kernel_size": 7,
    "use_conv_dec": True,
    "dec_max_relative_len": 2,
    "dec_kernel_size": 3,
    "use_trigger": True,
    "src_trigger": False,
    "use_unimask": False,
    "left_trigger": 1,
    "right_trigger": 1,
    "use_best_path": False,
    "use_mlm": False,
    "apply_mask": False,
    "use_mask_embed": False,
    "sample_topk": 0,
    "use_cmvn": False,
    "warmup_type": "noam_warmup",
}


def main() -> None:
    stub = types.ModuleType("models.blocks.hubert_blocks")
    stub.HubertModel = object  # type: ignore[attr-defined]
    sys.modules["models.blocks.hubert_blocks"] = stub
    torch.Tensor.cuda = lambda self, *_, **__: self  # type: ignore[method-assign,assignment]
    sys.path.insert(0, str(Path(sys.argv[1]) / "src"))
    from models import make_cassnat_model, make_unienc_cassnat_model

    decoder = {**OPTIONS, "N_self_dec": 1, "N_mix_dec": 2}
    write("cassnat", make_cassnat_model, decoder, decode_cassnat)
    write("unienc", make_unienc_cassnat_model, {**OPTIONS, "multi_ctc": True, "multi_ctc_alpha": 0.7}, decode_unienc)


def write(name: str, make_model: Any, options: dict[str, Any], decode: Any) -> None:
    torch.manual_seed(1)
    args = types.SimpleNamespace(**options, vocab_size=VOCAB_SIZE, padding_idx=0, text_padding_idx=0)
    model = make_model(NUM_MELS, args).eval()
    feats = torch.randn(1, NUM_FRAMES, NUM_MELS)
    mask = torch.ones(1, 1, NUM_FRAMES, dtype=torch.bool)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(0.2 * torch.randn_like(parameter))
        model.ctc_generator.proj.weight.mul_(3.0)
        model.ctc_generator.proj.bias[[1, 2, 3]] = -20.0
        model.att_generator.proj.weight.mul_(4.0)
        for parameter in model.parameters():
            parameter.copy_(parameter.half())
        spread_tokens(model, feats, mask)
        # What all slots have in common leaves one token the best of all of them.
        bias = model.att_generator.proj.bias
        bias.sub_(torch.from_numpy(decode(model, feats, mask, args)["slot_log_probs"]).mean(0))
        bias[[0, 1]] = -20.0  # ours never names them
        bias.copy_(bias.half())
        outputs = decode(model, feats, mask, args)
        outputs |= train(model, feats, mask, args, name)
        outputs |= encode_batch(model, feats)
    weights = {f"state/{key}": value.numpy().astype(np.float16) for key, value in model.state_dict().items()}
    path = GOLDEN / f"{name}.npz"
    np.savez_compressed(path, options=json.dumps(options), feats=feats[0].numpy(), **weights, **outputs)
    print(path, path.stat().st_size, "bytes;", "tokens", outputs["tokens"].tolist(), "loss", outputs["loss"])


def spread_tokens(model: Any, feats: torch.Tensor, mask: torch.Tensor) -> None:
    """Move the bias of the blank so that it is best in three frames of four."""
    x, x_mask = model.src_embed(feats, mask)
    log_probs = model.ctc_generator(model.encoder(x, x_mask))[0]
    margin = log_probs[:, 1:].max(-1).values - log_probs[:, 0]
    bias = model.ctc_generator.proj.bias
    bias[0] = (bias[0] + margin.sort(descending=True).values[len(margin) // 4]).half()


def segments(model: Any, log_probs: torch.Tensor, mask: torch.Tensor, args: Any) -> tuple[torch.Tensor, int]:
    lens = torch.tensor([log_probs.size(1)])
    shifted, token_lens, most = model.best_path_align(log_probs, mask, lens, 0)
    trigger, _, most = model.align_to_mask(shifted, token_lens, most, mask, lens, 0)
    return model.expand_trigger_mask(trigger, args.left_trigger, args.right_trigger) & mask, most


def decode_cassnat(model: Any, feats: torch.Tensor, mask: torch.Tensor, args: Any) -> dict[str, np.ndarray]:
    x, x_mask = model.src_embed(feats, mask)
    enc, inter = model.encoder(x, x_mask, 1.0, args.interctc_layer)
    log_probs = model.ctc_generator(enc)
    trigger, num_slots = segments(model, log_probs, x_mask, args)
    embeds = model.acembed_extractor(model.pe[None, :num_slots], enc, trigger)
    slots = torch.ones(1, 1, num_slots, dtype=torch.bool)
    related = model.selfattn_decoder(embeds, slots)
    mixed, inter_slots = model.mixattn_decoder(related, enc, x_mask, slots, 1.0, args.interce_layer)
    named = model.att_generator(mixed)
    return {
        "enc": enc[0].numpy(),
        "log_probs": log_probs[0].numpy(),
        "inter_log_probs": model.interctc_generator(inter)[0].numpy(),
        "trigger_mask": trigger[0].numpy(),
        "embeds": embeds[0][0].numpy(),
        "related": related[0][0].numpy(),
        "slot_log_probs": named[0].numpy(),
        "slot_inter_log_probs": model.interce_generator(inter_slots)[0].numpy(),
        "tokens": named[0].argmax(-1).numpy(),
    }


def decode_unienc(model: Any, feats: torch.Tensor, mask: torch.Tensor, args: Any) -> dict[str, np.ndarray]:
    x, x_mask = model.src_embed(feats, mask)
    enc, inter = model.encoder(x, x_mask, 1.0, args.interctc_layer)
    log_probs = model.ctc_generator(enc)
    trigger, num_slots = segments(model, log_probs, x_mask, args)
    embeds = model.acembed_extractor(model.pe[None, :num_slots], enc, trigger)
    both = model.src_embed.pos_enc(torch.cat([x[0], embeds], dim=1))
    both_mask = torch.ones(1, 1, both[0].size(1), dtype=torch.bool)
    second, second_inter = model.encoder(both, both_mask, 1.0, args.interce_layer)
    num_frames = enc.size(1)
    named = model.att_generator(second[:, num_frames:])
    return {
        "enc": enc[0].numpy(),
        "log_probs": log_probs[0].numpy(),
        "inter_log_probs": model.interctc_generator(inter)[0].numpy(),
        "trigger_mask": trigger[0].numpy(),
        "embeds": embeds[0].numpy(),
        "second_log_probs": model.ctc_generator(second[:, :num_frames])[0].numpy(),
        "slot_log_probs": named[0].numpy(),
        "slot_inter_log_probs": model.interce_generator(second_inter[:, num_frames:])[0].numpy(),
        "tokens": named[0].argmax(-1).numpy(),
    }


def train(model: Any, feats: torch.Tensor, mask: torch.Tensor, args: Any, name: str) -> dict[str, np.ndarray]:
    """Return the training losses of ``TOKENS``, without dropout."""
    labels, sizes = torch.tensor([[*TOKENS, 2]]), torch.tensor([len(TOKENS)])
    found = model(feats, mask, torch.tensor([1.0]), labels, sizes, args)
    loss, ctc, ce = (found[2], found[3], found[4]) if name == "cassnat" else (found[3], found[4], found[6])
    return {
        "target": np.array(TOKENS),
        "loss": loss.numpy(),
        "ctc_loss": ctc.numpy(),
        "ce_loss": ce.numpy(),
    }


def encode_batch(model: Any, feats: torch.Tensor) -> dict[str, np.ndarray]:
    """Return the encoder output of two utterances, one padded: their convolutions and norms see the padding."""
    lens = [NUM_FRAMES, 90]
    batch = feats.repeat(2, 1, 1)
    batch[1, lens[1] :] = 0.0
    mask = torch.arange(NUM_FRAMES) < torch.tensor(lens)[:, None, None]
    x, x_mask = model.src_embed(batch, mask)
    return {"batch_lens": np.array(lens), "batch_enc": model.encoder(x, x_mask).numpy()}


if __name__ == "__main__":
    main()
