"""A random recogniser of a few thousand parameters, as a model folder."""

from pathlib import Path

import numpy as np
import soundfile
import torch

from speechnar.models.base import save_model
from speechnar.models.joint import Joint, JointConfig
from speechnar.models.owsm_ctc import OwsmCtc, OwsmCtcConfig
from speechnar.models.paraformer import Paraformer, ParaformerConfig
from speechnar.text.tokenizer import LexiconTokenizer, SentencePieceTokenizer, task_specials

RATE = 16000
LANGUAGES = ("eng", "deu", "fra")
TEXTS = ["the cat sat on the mat", "a dog ran home", "he said good day to the cat", "we ran to the dog and sat"] * 5
CARD = "---\nlanguage: [eng, deu, fra]\nlicense: apache-2.0\ntasks: [asr, st]\n---\n# tiny\n"


def save_tiny_model(folder: Path, *, tasks: bool = True, card: str = CARD) -> Path:
    """Write a model that knows three languages and translates to German (or none of this), blank made less likely."""
    torch.manual_seed(0)
    specials = task_specials(LANGUAGES, ("deu",)) if tasks else ()
    tokenizer = SentencePieceTokenizer.train(TEXTS, 60, specials)
    config = OwsmCtcConfig.debug()
    if not tasks:
        config = config.model_copy(update={"prompt": None})
    model = OwsmCtc(config, tokenizer).eval()
    with torch.no_grad():
        model.ctc.proj.weight.mul_(4.0)  # peaky posteriors: many tokens, and no ties for batches to break
    save_model(folder, model, tokenizer, card=card)
    return folder


def save_tiny_joint(folder: Path) -> Path:
    """Write a model of the same languages with every decoder."""
    torch.manual_seed(0)
    tokenizer = SentencePieceTokenizer.train(TEXTS, 60, task_specials(LANGUAGES, ("deu",)))
    model = Joint(JointConfig.debug(), tokenizer).eval()
    with torch.no_grad():
        model.trunk.ctc.proj.weight.mul_(4.0)
    save_model(folder, model, tokenizer, card=CARD)
    return folder


def save_tiny_paraformer(folder: Path) -> Path:
    """Write a Paraformer without CTC, whose weights fire a few times a second, as a model of one language."""
    torch.manual_seed(0)
    pieces = ("<blank>", "<sos>", "<eos>", *"一二三四五六七八九十", "a@@", "bc", "<unk>")
    tokenizer = LexiconTokenizer(pieces, {"abc": ("a@@", "bc")})
    model = Paraformer(ParaformerConfig.debug().model_copy(update={"ctc_weight": 0.0}), tokenizer).eval()
    with torch.no_grad():
        model.head.embedder.proj.bias.fill_(-1.0)
        model.head.output.weight.normal_()
        model.head.output.bias[[0, 1, 2, -1]] = -100.0
    save_model(folder, model, tokenizer, card="---\nlanguage: zh\n---\n# tiny\n")
    return folder


def write_speechlike(path: Path, seconds: float, *, seed: int = 0, rate: int = RATE, channels: int = 1) -> Path:
    """Write noise whose colour and loudness change four times a second."""
    soundfile.write(path, speechlike(seconds, seed=seed, rate=rate, channels=channels), rate)
    return path


def speechlike(seconds: float, *, seed: int = 0, rate: int = RATE, channels: int = 1) -> np.ndarray:
    rng = np.random.default_rng(seed)
    size = round(seconds * rate)
    times = np.arange(size) / rate
    steps = (times * 4).astype(int)
    pitch = rng.uniform(100, 3000, steps.max(initial=0) + 1)[steps]
    wav = 0.3 * np.sin(2 * np.pi * pitch * times) + 0.02 * rng.standard_normal(size)
    wav = wav.astype(np.float32)
    return wav if channels == 1 else np.stack([wav] * channels, axis=1)
