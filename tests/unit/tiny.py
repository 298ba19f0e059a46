"""A random recogniser of a few thousand parameters, as a model folder."""

from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from scipy.signal import lfilter

from speechnar.models.asr.joint import Joint, JointConfig
from speechnar.models.asr.owsm_ctc import OwsmCtc, OwsmCtcConfig
from speechnar.models.asr.paraformer import Paraformer, ParaformerConfig
from speechnar.models.asr.refiner import RefinerHeadConfig
from speechnar.models.asr.sensevoice import EMOTIONS, EVENTS, SenseVoice, SenseVoiceConfig
from speechnar.models.asr.sensevoice import LANGUAGES as SENSEVOICE_LANGUAGES
from speechnar.models.asr.transformer_ar import TransformerArHeadConfig
from speechnar.models.base import save_model
from speechnar.models.tts.mel_pca import MelPca
from speechnar.models.tts.tts import Tts, TtsConfig
from speechnar.nn.encoder import ConformerConfig
from speechnar.nn.whisper import WhisperConfig, WhisperTrunkConfig
from speechnar.text.byte_pairs import BYTE_LETTERS, BytePairTokenizer
from speechnar.text.phonemes import PhonemeTokenizer
from speechnar.text.tokenizer import (
    BLANK,
    SENTENCE_PIECES,
    UNK,
    LexiconTokenizer,
    SentencePieceTokenizer,
    Tokenizer,
    task_specials,
)
from tests.unit.models.sounds import voices

RATE = 16000
LANGUAGES = ("eng", "deu", "fra")
TEXTS = ["the cat sat on the mat", "a dog ran home", "he said good day to the cat", "we ran to the dog and sat"] * 5
CARD = "---\nlanguage: [eng, deu, fra]\nlicense: apache-2.0\ntasks: [asr, st]\n---\n# tiny\n"


def save_tiny_model(folder: Path, *, tasks: bool = True, card: str = CARD, to: str = "deu") -> Path:
    """Write a model that knows three languages and translates into one (or none of this), blank made less likely."""
    torch.manual_seed(0)
    specials = task_specials(LANGUAGES, (to,)) if tasks else ()
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


MERGES = [("a", "t"), ("a", "r"), ("Ġ", "c"), ("Ġc", "at"), ("Ġc", "ar"), ("ä", "½"), ("ä½", "ł")]
"""Of bytes, the last two of which make "你"."""


def save_tiny_whisper(folder: Path) -> Path:
    """Write a model of English and Mandarin on a Whisper trunk, with byte-level pieces: CTC, refiner and baseline."""
    torch.manual_seed(0)
    specials, made = task_specials(("eng", "cmn")), ["".join(pair) for pair in MERGES]
    pieces = [BLANK, UNK, *specials, *BYTE_LETTERS.values(), *made, *SENTENCE_PIECES]
    tokenizer = BytePairTokenizer(pieces, MERGES)
    whisper = WhisperConfig(num_mels=80, model_dim=32, num_layers=1, num_heads=2)
    blocks = ConformerConfig(
        model_dim=24, num_layers=2, num_heads=2, ff_dim=48, kernel_size=5, positions="rotary", subsampling=2
    )
    trunk = OwsmCtcConfig.debug()
    trunk = trunk.model_copy(
        update={
            "frontend": trunk.frontend.for_whisper(),
            "normalize": "peak",
            "encoder": WhisperTrunkConfig(whisper=whisper, blocks=blocks),
            "interctc_layers": (1,),
            "interctc_asr_only": (True,),
        }
    )
    baseline = TransformerArHeadConfig(decoder="whisper", feed_forward="gelu", num_layers=1, num_heads=2, ff_dim=64)
    config = JointConfig(trunk=trunk, refiner=RefinerHeadConfig.debug(), transformer_ar=baseline)
    model = Joint(config, tokenizer).eval()
    with torch.no_grad():
        model.trunk.ctc.proj.weight.mul_(6.0)
        model.decoders["refiner"].output.weight.mul_(8.0)  # tokens more probable than blank
    save_model(folder, model, tokenizer, card="---\nlanguage: [eng, cmn]\n---\n# tiny\n")
    return folder


def save_tiny_paraformer(folder: Path, config: ParaformerConfig | None = None) -> Path:
    """Write a Paraformer without CTC, whose weights fire a few times a second, as a model of one language."""
    torch.manual_seed(0)
    config = config or ParaformerConfig.debug()
    pieces = ("<blank>", "<sos>", "<eos>", *"一二三四五六七八九十", "a@@", "bc", "<unk>")
    tokenizer = LexiconTokenizer(pieces, {"abc": ("a@@", "bc")})
    model = Paraformer(config.model_copy(update={"ctc_weight": 0.0}), tokenizer).eval()
    with torch.no_grad():
        model.head.embedder.proj.bias.fill_(-1.0)
        model.head.output.weight.normal_()
        model.head.output.bias[[0, 1, 2, -1]] = -100.0
    save_model(folder, model, tokenizer, card="---\nlanguage: zh\n---\n# tiny\n")
    return folder


def save_tiny_sensevoice(folder: Path) -> Path:
    """Write a SenseVoice whose posteriors are peaky, with all labels of the published one."""
    torch.manual_seed(0)
    labels = [label for _, label in SENSEVOICE_LANGUAGES.values()]
    labels += [f"<|{name}|>" for name in (*EMOTIONS, *EVENTS, "withitn", "woitn")]
    tokenizer = SentencePieceTokenizer.train(TEXTS, 80, labels)
    model = SenseVoice(SenseVoiceConfig.debug(), tokenizer).eval()
    with torch.no_grad():
        model.ctc.proj.weight.mul_(4.0)
    save_model(folder, model, tokenizer, card="---\nlanguage: [zh, en, yue, ja, ko]\n---\n# tiny\n")
    return folder


def save_tiny_tts(folder: Path, tokenizer: Tokenizer | None = None, **changes: Any) -> Path:
    """Write a synthesis model that speaks noise, a token about a tenth of a second; phonemes unless told otherwise."""
    torch.manual_seed(0)
    tokenizer = tokenizer or PhonemeTokenizer()
    model = Tts.from_config(TtsConfig.debug().model_copy(update=changes), tokenizer).eval()
    if isinstance(model.codec, MelPca):
        model.codec.fit([voices([2 * RATE] * 8)])
    with torch.no_grad():
        model.durations.output.weight.mul_(0.1)
        model.durations.output.bias.fill_(1.2)
        for parameter in model.ardit.parameters():
            parameter.normal_(std=0.05)
    save_model(folder, model, tokenizer, card="---\nlanguage: en\nlicense: cc0-1.0\ntasks: [tts]\n---\n# tiny\n")
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


FORMANTS_HZ = ((730, 1090, 2440), (270, 2290, 3010), (300, 870, 2240), (530, 1840, 2480), (570, 840, 2410))
"""Of five vowels: Peterson and Barney, "Control Methods Used in a Study of the Vowels", 1952, table II, men."""


def vowels(seconds: float, *, seed: int = 0) -> np.ndarray:
    """Return random vowels, five a second, that glide into each other: voice activity detection hears speech.

    Pulses and breath go through three resonators whose frequencies change every 5 ms.

    Source: Klatt, "Software for a cascade/parallel formant synthesizer", JASA 1980, section II.A.
    """
    rng = np.random.default_rng(seed)
    size, num = round(seconds * RATE), round(seconds * 5) + 2
    place = np.arange(size) / RATE * 5  # in vowels
    pitch = np.interp(place, np.arange(num), rng.uniform(110, 180, num))
    pulses = np.diff(np.floor(np.cumsum(pitch / RATE)), prepend=0)
    wav = lfilter([1], [1, -0.95], pulses) + 0.3 * rng.standard_normal(size)
    formants = np.array(FORMANTS_HZ)[rng.integers(len(FORMANTS_HZ), size=num)]
    for track, bandwidth in zip(formants.T, (60, 90, 120), strict=True):
        radius, state = np.exp(-np.pi * bandwidth / RATE), np.zeros(2)
        for begin in range(0, size, 80):
            frequency = np.interp(place[begin], np.arange(num), track)
            turn = 2 * radius * np.cos(2 * np.pi * frequency / RATE)
            coefficients = [1 - turn + radius**2], [1, -turn, radius**2]
            wav[begin : begin + 80], state = lfilter(*coefficients, wav[begin : begin + 80], zi=state)
    wav *= 0.15 + 0.85 * np.sin(np.pi * place) ** 2
    return (0.3 * wav / np.abs(wav).max()).astype(np.float32)
