"""Write golden/magnet.npz with audiocraft: ``python make_golden_magnet.py CLONE``.

CLONE is of facebookresearch/audiocraft. Needs its dependencies but for xformers, torchaudio and spacy, in whose places
small modules are put (attention by torch, with the mask as given; the others are not used). The models are small, with
random weights rounded to half precision; the text encoder is left out, its features are random numbers.
"""

import importlib.machinery
import sys
import types
from pathlib import Path

import numpy as np
import torch
from torch.nn.functional import scaled_dot_product_attention

FRAMES, BATCH, BOOKS, CODES, SPAN = 24, 2, 4, 32, 3
STEPS = (6, 3, 3, 5)
TEMPERATURE, TOP_P, GUIDANCE = 2.0, 0.9, (4.0, 1.0)


def put_module(name: str, **content: object) -> None:
    module = types.ModuleType(name)
    module.__spec__ = importlib.machinery.ModuleSpec(name, None)
    module.__path__ = []
    module.__dict__.update(content)
    sys.modules[name] = module
    if "." in name:
        parent, _, child = name.rpartition(".")
        setattr(sys.modules[parent], child, module)


def put_modules() -> None:
    class LowerTriangularMask:
        pass

    def attention(q, k, v, attn_bias=None, p=0.0):
        assert not isinstance(attn_bias, LowerTriangularMask)
        heads = (x.transpose(1, 2) for x in (q, k, v))
        return scaled_dot_product_attention(*heads, attn_mask=attn_bias).transpose(1, 2)

    put_module("xformers")
    put_module(
        "xformers.ops",
        unbind=torch.unbind,
        LowerTriangularMask=LowerTriangularMask,
        memory_efficient_attention=attention,
    )
    put_module(
        "xformers.profiler", profiler=types.SimpleNamespace(_Profiler=types.SimpleNamespace(_CURRENT_PROFILER=None))
    )
    unused = type("Unused", (torch.nn.Module,), {})
    put_module("torchaudio")
    put_module("torchaudio.transforms", Spectrogram=unused, MelSpectrogram=unused, Resample=unused, Loudness=unused)
    put_module("torchaudio.functional")
    put_module("torchaudio.functional.filtering", highpass_biquad=None, treble_biquad=None)
    put_module("spacy")


MODEL = {
    "device": "cpu",
    "dtype": "float32",
    "lm_model": "transformer_lm_magnet",
    "transformer_lm": {
        "dim": 16,
        "num_heads": 2,
        "num_layers": 2,
        "hidden_scale": 4,
        "n_q": BOOKS,
        "card": CODES,
        "dropout": 0.0,
        "emb_lr": None,
        "activation": "gelu",
        "norm_first": True,
        "bias_ff": False,
        "bias_attn": False,
        "bias_proj": False,
        "past_context": None,
        "causal": False,
        "custom": False,
        "memory_efficient": True,
        "attention_as_float32": False,
        "layer_scale": None,
        "positional_embedding": "sin",
        "xpos": False,
        "checkpointing": "none",
        "weight_init": "gaussian",
        "depthwise_init": "current",
        "zero_bias_init": True,
        "norm": "layer_norm",
        "cross_attention": False,
        "qk_layer_norm": False,
        "qk_layer_norm_cross": False,
        "attention_dropout": None,
        "kv_repeat": 1,
        "two_step_cfg": False,
        "subcodes_context": 3,
        "compression_model_framerate": 24,
        "segment_duration": 1,
        "span_len": SPAN,
    },
    "codebooks_pattern": {"modeling": "parallel", "parallel": {"empty_initial": -1}},
    "classifier_free_guidance": {"training_dropout": 0.3, "inference_coef": 3.0},
    "attribute_dropout": {},
    "fuser": {
        "cross_attention_pos_emb": False,
        "cross_attention_pos_emb_scale": 1,
        "sum": [],
        "prepend": [],
        "cross": ["description"],
        "input_interpolate": [],
    },
    "conditioners": {
        "description": {
            "model": "t5",
            "t5": {"name": "t5-small", "finetune": False, "word_dropout": 0.3, "normalize_text": False},
        }
    },
    "dataset": {"segment_duration": 1},
    "masking": {"span_len": SPAN},
    "interleave_stereo_codebooks": {"use": False, "per_timestep": False},
    "compression_model_n_q": None,
    "generate": {
        "lm": {
            "decoding_steps": list(STEPS),
            "temp": TEMPERATURE,
            "top_p": TOP_P,
            "max_cfg_coef": GUIDANCE[0],
            "min_cfg_coef": GUIDANCE[1],
        }
    },
}
CODEC = {
    "device": "cpu",
    "compression_model": "encodec",
    "sample_rate": 1152,
    "channels": 1,
    "encodec": {
        "autoencoder": "seanet",
        "quantizer": "rvq",
        "sample_rate": "${sample_rate}",
        "channels": 1,
        "causal": False,
        "renormalize": False,
    },
    "seanet": {
        "dimension": 8,
        "channels": 1,
        "causal": False,
        "n_filters": 4,
        "n_residual_layers": 1,
        "ratios": [8, 3, 2],
        "activation": "ELU",
        "activation_params": {"alpha": 1.0},
        "norm": "weight_norm",
        "norm_params": {},
        "kernel_size": 7,
        "residual_kernel_size": 3,
        "last_kernel_size": 7,
        "dilation_base": 2,
        "pad_mode": "constant",
        "true_skip": True,
        "compress": 2,
        "lstm": 2,
        "disable_norm_outer_blocks": 0,
        "decoder": {"trim_right_ratio": 1.0, "final_activation": None, "final_activation_params": None},
        "encoder": {},
    },
    "rvq": {
        "n_q": BOOKS,
        "q_dropout": False,
        "bins": CODES,
        "decay": 0.99,
        "kmeans_init": False,
        "kmeans_iters": 50,
        "threshold_ema_dead_code": 2,
        "orthogonal_reg_weight": 0.0,
        "orthogonal_reg_active_codes_only": False,
    },
    "no_quant": {},
}


def make_models(options: dict, codec_options: dict) -> tuple[torch.nn.Module, torch.nn.Module]:
    from audiocraft.models import builders
    from audiocraft.modules import conditioners
    from audiocraft.modules.transformer import set_efficient_attention_backend
    from omegaconf import OmegaConf

    set_efficient_attention_backend("xformers")
    nobody = types.SimpleNamespace(train=lambda mode: nobody, to=lambda device: nobody)
    conditioners.T5Tokenizer = types.SimpleNamespace(from_pretrained=lambda name: None)
    conditioners.T5EncoderModel = types.SimpleNamespace(from_pretrained=lambda name: nobody)
    torch.manual_seed(0)
    model = builders.get_lm_model(OmegaConf.create(options)).eval()
    codec = builders.get_compression_model(OmegaConf.create(codec_options)).eval()
    with torch.no_grad():
        for each in (model, codec):
            for name, value in each.state_dict().items():
                if "norm" in name and value.dim() == 1:
                    value.add_(0.2 * torch.randn_like(value))
                if "embed" in name and "avg" not in name:
                    value.copy_(0.3 * torch.randn_like(value))
                if value.is_floating_point():
                    value.copy_(value.half())
    return model, codec


def main() -> None:
    """Write the file."""
    put_modules()
    sys.path.insert(0, sys.argv[1])
    import omegaconf
    from audiocraft.utils import utils

    model, codec = make_models(MODEL, CODEC)
    out: dict[str, np.ndarray] = {
        "model_cfg": np.array(omegaconf.OmegaConf.to_yaml(omegaconf.OmegaConf.create(MODEL))),
        "codec_cfg": np.array(omegaconf.OmegaConf.to_yaml(omegaconf.OmegaConf.create(CODEC))),
    }
    for kind, each in (("model", model), ("codec", codec)):
        for name, value in each.state_dict().items():
            out[f"{kind}/{name}"] = value.half().numpy() if value.is_floating_point() else value.numpy()
    generator = torch.Generator().manual_seed(1)
    features = torch.randn(BATCH, 5, 512, generator=generator).half().float()
    text_lens = torch.tensor([5, 3])
    codes = torch.randint(0, CODES + 1, (BATCH, BOOKS, FRAMES), generator=generator)
    wav = (0.3 * torch.randn(1, 1, 1000, generator=generator)).half().float()
    prompt = torch.randint(0, CODES, (BATCH, BOOKS, 7), generator=generator)
    with torch.no_grad():
        mask = (torch.arange(5) < text_lens[:, None]).float()
        project = model.condition_provider.conditioners["description"].output_proj
        told = project(features) * mask[..., None]
        for stage in range(BOOKS):
            found = model(codes, [], {"description": (told, mask)}, stage=stage)
            out[f"logits{stage}"] = found[:, stage].numpy()
        both = {"description": (torch.cat([told, 0 * told]), torch.cat([mask, 0 * mask]))}
        for name, known in (("generated", prompt[..., :0]), ("continued", prompt)):
            uniforms = [torch.Generator().manual_seed(7 + row) for row in range(BATCH)]

            def pick(probs, num_samples, uniforms=uniforms):
                numbers = torch.stack([torch.rand(FRAMES, generator=each) for each in uniforms])
                return (probs.cumsum(-1) <= numbers[:, None, :, None]).sum(-1, keepdim=True)

            utils.multinomial = pick
            sequence = torch.full((BATCH, BOOKS, FRAMES), CODES)
            sequence[..., : known.size(2)] = known
            for stage, steps in enumerate(STEPS):
                sequence, _ = model._generate_stage(
                    sequence, both, stage=stage, device="cpu", prompt_length=known.size(2), prompt=known,
                    temp=TEMPERATURE, max_cfg_coef=GUIDANCE[0], min_cfg_coef=GUIDANCE[1], top_p=TOP_P,
                    timesteps=steps,
                )  # fmt: skip
            out[name] = sequence.numpy()
        coded, _ = codec.encode(wav)
        out |= {"coded": coded.numpy(), "decoded": codec.decode(coded).numpy()}
    out |= {"features": features.numpy(), "text_lens": text_lens.numpy(), "codes": codes.numpy()}
    out |= {"wav": wav.numpy(), "prompt": prompt.numpy()}
    np.savez_compressed(Path(__file__).parent / "golden" / "magnet.npz", **out)


if __name__ == "__main__":
    main()
