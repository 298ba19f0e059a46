"""Small ESPnet models with random weights, built by ESPnet itself, and written as it writes them."""

import argparse
import copy
import os
import zipfile
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from speechnar.text.tokenizer import SentencePieceTokenizer, task_specials

RATE = 16000


def import_espnet(scratch: Path, task: str = "s2t_ctc") -> ModuleType:
    """Return ESPnet's task module, or skip the test; the importer of `speechnar` never needs it."""
    # ESPnet's tokenizers import g2p_en, which downloads two nltk files unless it finds them; empty ones will do.
    for name in ("taggers/averaged_perceptron_tagger_eng.zip", "corpora/cmudict.zip"):
        path = scratch / "nltk" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        zipfile.ZipFile(path, "w").close()
    os.environ["NLTK_DATA"] = str(scratch / "nltk")
    return pytest.importorskip(f"espnet2.tasks.{task}", reason="needs the package espnet", exc_type=ImportError)


def train_tokenizer(num_words: int = 500, vocab_size: int = 300) -> SentencePieceTokenizer:
    rng = np.random.default_rng(0)
    consonants, vowels = list("bdfgklmnprstvz"), list("aeiou")
    syllables = [c + v for c in consonants for v in vowels]
    words = ["".join(rng.choice(syllables, rng.integers(1, 4))) for _ in range(num_words)]
    texts = [" ".join(rng.choice(words, 8)) for _ in range(300)]
    return SentencePieceTokenizer.train(texts, vocab_size, task_specials(("eng", "zho"), ("eng", "zho")))


def owsm_ctc_options(
    pieces: tuple[str, ...],
    *,
    dim: int,
    num_blocks: int,
    heads: int,
    interctc: list[int],
    prompt_dim: int | None = None,
    prompt_blocks: int = 2,
    num_mels: int = 80,
    stats: Path | None = None,
    relative: bool = False,
) -> dict[str, Any]:
    """Return the content of ``config.yaml`` of a model shaped like the published ones."""
    prompt_dim = prompt_dim or dim
    return {
        "token_list": list(pieces),
        "token_type": "bpe",
        "bpemodel": "bpe.model",
        "input_size": None,
        "init": None,
        "frontend": "default",
        "frontend_conf": {"fs": "16k", "n_fft": 512, "win_length": 400, "hop_length": 160, "n_mels": num_mels},
        "specaug": "specaug",
        "specaug_conf": {
            "apply_time_warp": False,
            "freq_mask_width_range": [0, 27],
            "num_freq_mask": 2,
            "time_mask_width_ratio_range": [0.0, 0.05],
            "num_time_mask": 10,
        },
        "normalize": "global_mvn" if stats else "utterance_mvn",
        "normalize_conf": {"stats_file": str(stats)} if stats else {"norm_means": True, "norm_vars": True},
        "encoder": "e_branchformer_ctc",
        "encoder_conf": {
            "output_size": dim,
            "attention_heads": heads,
            "attention_layer_type": "rel_selfattn" if relative else "selfattn",
            "pos_enc_layer_type": "rel_pos" if relative else "abs_pos",
            "rel_pos_type": "latest",
            "cgmlp_linear_units": 4 * dim,
            "cgmlp_conv_kernel": 31,
            "use_linear_after_conv": False,
            "gate_activation": "identity",
            "num_blocks": num_blocks,
            "dropout_rate": 0.1,
            "positional_dropout_rate": 0.1,
            "attention_dropout_rate": 0.1,
            "input_layer": "conv2d8",
            "layer_drop_rate": 0.0,
            "linear_units": 4 * dim,
            "positionwise_layer_type": "linear",
            "use_ffn": True,
            "macaron_ffn": True,
            "merge_conv_kernel": 31,
            "interctc_layer_idx": interctc,
            "interctc_use_conditioning": True,
            "use_cross_attention": [(i + 1) % 3 == 0 for i in range(num_blocks)],
            "use_flash_attn": False,
        },
        "promptencoder": "transformer",
        "promptencoder_conf": {
            "output_size": prompt_dim,
            "attention_heads": max(1, prompt_dim // 64),
            "linear_units": 4 * prompt_dim,
            "num_blocks": prompt_blocks,
        },
        "ctc_conf": {},
        "model": "espnet_ctc",
        "model_conf": {
            "interctc_weight": 0.8,
            "sym_na": "<na>",
            "report_cer": False,
            "report_wer": False,
            "ctc_asr_only": [True] * (len(interctc) - 1) + [False, False],
        },
        "preprocessor": "s2t_ctc",
        "preprocessor_conf": {"na_symbol": "<na>", "speech_length": 30, "nolang_symbol": "<nolang>"},
    }


def published_options(pieces: tuple[str, ...], num_mels: int, stats: Path) -> dict[str, Any]:
    """Return the configuration of the 1 B models."""
    return owsm_ctc_options(
        pieces,
        dim=1024,
        num_blocks=27,
        heads=16,
        interctc=[6, 12, 15, 21],
        prompt_dim=512,
        prompt_blocks=4,
        num_mels=num_mels,
        stats=stats,
    )


_RELATIVE = {"rel_pos_type": "latest", "pos_enc_layer_type": "rel_pos"}
_GATING = {**_RELATIVE, "attention_layer_type": "rel_selfattn", "cgmlp_linear_units": 96, "cgmlp_conv_kernel": 15}
ASR_ENCODERS: dict[str, dict[str, Any]] = {
    "conformer": {
        **_RELATIVE,
        "linear_units": 256,
        "macaron_style": True,
        "selfattention_layer_type": "rel_selfattn",
        "activation_type": "swish",
        "use_cnn_module": True,
        "cnn_module_kernel": 15,
    },
    "e_branchformer": {
        **_GATING,
        "linear_units": 128,
        "use_ffn": True,
        "macaron_ffn": True,
        "positionwise_layer_type": "linear",
        "merge_conv_kernel": 7,
    },
    "branchformer": {**_GATING, "merge_method": "concat", "stochastic_depth_rate": 0.0},
    "transformer": {"linear_units": 128, "normalize_before": True},
}
"""What ESPnet's ASR recipes say of each encoder, but for sizes."""


def asr_options(
    pieces: tuple[str, ...], encoder: str, *, dim: int, num_blocks: int, decoder: bool = False
) -> dict[str, Any]:
    """Return the content of ``config.yaml`` of a recogniser as ESPnet's ASR recipes configure it."""
    return {
        "token_list": list(pieces),
        "token_type": "bpe",
        "bpemodel": "bpe.model",
        "input_size": None,
        "init": None,
        "frontend": "default",
        "frontend_conf": {"n_fft": 512, "win_length": 400, "hop_length": 160},
        "specaug": None,
        "specaug_conf": {},
        "normalize": "utterance_mvn",
        "normalize_conf": {"norm_vars": True},
        "preencoder": None,
        "preencoder_conf": {},
        "encoder": encoder,
        "encoder_conf": {
            "output_size": dim,
            "attention_heads": 4,
            "num_blocks": num_blocks,
            "input_layer": "conv2d",
            **ASR_ENCODERS[encoder],
        },
        "postencoder": None,
        "postencoder_conf": {},
        "decoder": "transformer" if decoder else None,
        "decoder_conf": {"attention_heads": 4, "linear_units": dim, "num_blocks": 2} if decoder else {},
        "ctc_conf": {},
        "model": "espnet",
        "model_conf": {"ctc_weight": 0.3 if decoder else 1.0, "report_cer": False, "report_wer": False},
    }


def write_stats(path: Path, num_mels: int = 80) -> Path:
    """Write feature statistics as ESPnet collects them."""
    rng = np.random.default_rng(1)
    mean, std = rng.normal(-8, 1, num_mels), rng.uniform(2, 4, num_mels)
    np.savez(path, count=1000, sum=1000 * mean, sum_square=1000 * (std**2 + mean**2))
    return path


def build(task: ModuleType, options: dict[str, Any], seed: int = 0) -> torch.nn.Module:
    """Return ESPnet's model in evaluation mode, every parameter away from where it starts."""
    task_cls = task.S2TTask if options["encoder"] == "e_branchformer_ctc" else task.ASRTask
    torch.manual_seed(seed)
    model = task_cls.build_model(argparse.Namespace(**copy.deepcopy(options))).eval()
    perturb(model)
    return model


@torch.no_grad()
def perturb(model: torch.nn.Module) -> None:
    """Move what starts at 0, at 1 or next to them, so that swapped or forgotten tensors show; sharpen the CTC head."""
    for name, tensor in model.state_dict().items():
        if "norm" in name.split(".")[-2] and name.endswith("weight"):
            tensor.add_(0.2 * torch.randn_like(tensor))
        elif name.endswith(("bias", "running_mean")):
            tensor.add_(0.1 * torch.randn_like(tensor))
        elif name.endswith("running_var"):
            tensor.mul_(0.5 + torch.rand_like(tensor))
        elif name.endswith("csgu.conv.weight"):
            tensor.copy_(0.2 * torch.randn_like(tensor))
        elif name.endswith("ctc_lo.weight"):
            tensor.mul_(4.0)


def write_folder(
    folder: Path, model: torch.nn.Module, options: dict[str, Any], tokenizer: SentencePieceTokenizer
) -> Path:
    """Write the model as a folder of ``config.yaml``, weights and ``bpe.model``."""
    tokenizer.save(folder)
    (folder / "tokens.txt").unlink()
    (folder / "tokenizer.model").rename(folder / "bpe.model")
    (folder / "config.yaml").write_text(yaml.safe_dump(options, allow_unicode=True, sort_keys=False))
    torch.save(model.state_dict(), folder / "valid.total_count.ave.pth")
    return folder


@torch.no_grad()
def spread_tokens(model: torch.nn.Module, wav: torch.Tensor) -> None:
    """Centre the CTC head on ``wav`` (1, S), so that a random model's best labels vary, with blanks in between."""
    lens = torch.tensor([wav.size(1)])
    one, prefix = torch.tensor([1]), torch.tensor([[model.na, model.na]])
    head = model.ctc.ctc_lo
    for _ in range(3):  # the head also changes what the encoder is fed back
        enc, _ = model.encode(wav, lens, torch.tensor([[model.na]]), one, prefix, torch.tensor([2]))
        head.bias.copy_(-head.weight @ enc[0][0, 2:].mean(0))
    logits = head(enc[0])
    margin = (logits.max(-1).values - logits[..., model.blank_id]).quantile(0.4)
    head.bias[model.blank_id] += margin
