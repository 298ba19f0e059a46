"""Write golden/sensevoice.npz: a tiny random SenseVoiceSmall of FunASR 1.4.16, its folder, and what it makes of speech.

    python -m tests.reference.make_golden_sensevoice

Weights are rounded to float16 before FunASR uses them, so that the file holds exactly the weights it used.
"""

import io
import json
import tempfile
from pathlib import Path
from typing import Any

import funasr.models.sense_voice.model  # noqa: F401  # registers the model
import numpy as np
import sentencepiece
import torch
import yaml
from funasr import AutoModel
from funasr.register import tables
from funasr.utils.load_utils import extract_fbank

from tests.reference.funasr_folders import GOLDEN, meta_of
from tests.unit.tiny import TEXTS, speechlike

WIDTH, MELS = 16, 20
BPE_FILE = "chn_jpn_yue_eng_ko_spectok.bpe.model"
LABELS = [
    *("<|zh|>", "<|en|>", "<|yue|>", "<|ja|>", "<|ko|>", "<|nospeech|>"),
    *("<|HAPPY|>", "<|SAD|>", "<|NEUTRAL|>", "<|EMO_UNKNOWN|>", "<|Speech|>", "<|BGM|>", "<|Event_UNK|>"),
    *("<|withitn|>", "<|woitn|>"),
]
ASKED = {"any": ("auto", True), "japanese": ("ja", False)}
"""Language and punctuation that are asked for."""

# The sections and options of the published config.yaml, narrower.
CONFIG: dict[str, Any] = {
    "encoder": "SenseVoiceEncoderSmall",
    "encoder_conf": {
        "output_size": WIDTH,
        "attention_heads": 2,
        "linear_units": 32,
        "num_blocks": 3,
        "tp_blocks": 2,
        "dropout_rate": 0.1,
        "positional_dropout_rate": 0.1,
        "attention_dropout_rate": 0.1,
        "input_layer": "pe",
        "pos_enc_class": "SinusoidalPositionEncoder",
        "normalize_before": True,
        "kernel_size": 5,
        "sanm_shfit": 0,
        "selfattention_layer_type": "sanm",
    },
    "model": "SenseVoiceSmall",
    "model_conf": {"length_normalized_loss": True, "sos": 1, "eos": 2, "ignore_id": -1},
    "tokenizer": "SentencepiecesTokenizer",
    "tokenizer_conf": {"bpemodel": None, "unk_symbol": "<unk>", "split_with_space": True},
    "frontend": "WavFrontend",
    "frontend_conf": {
        "fs": 16000,
        "window": "hamming",
        "n_mels": MELS,
        "frame_length": 25,
        "frame_shift": 10,
        "lfr_m": 7,
        "lfr_n": 6,
        "cmvn_file": None,
        "dither": 0.0,
    },
    "dataset": "SenseVoiceCTCDataset",
    "dataset_conf": {"index_ds": "IndexDSJsonl", "sos": "${model_conf.sos}", "eos": "${model_conf.eos}"},
    "train_conf": {"accum_grad": 1},
    "optim": "adamw",
    "scheduler": "warmuplr",
    "specaug": "SpecAugLFR",
    "specaug_conf": {
        "apply_time_warp": False,
        "apply_freq_mask": True,
        "freq_mask_width_range": [0, 30],
        "lfr_rate": 6,
        "num_freq_mask": 1,
        "apply_time_mask": True,
        "time_mask_width_range": [0, 12],
        "num_time_mask": 1,
    },
}


def main() -> None:
    folder = Path(tempfile.mkdtemp())
    pcm = np.round(speechlike(2.2) * 32767 * 0.9).clip(-32768, 32767).astype(np.int16)
    bpe = train_pieces()
    (folder / BPE_FILE).write_bytes(bpe)
    texts = {
        "config.yaml": yaml.safe_dump(CONFIG, sort_keys=False),
        "configuration.json": json.dumps(meta_of(bpemodel=BPE_FILE)),
        "am.mvn": statistics(),
    }
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")
    state = build(folder, sentencepiece.SentencePieceProcessor(model_proto=bpe).get_piece_size())
    wav = torch.from_numpy(pcm.astype(np.float32) / 32768)
    with torch.no_grad():
        outputs = run(AutoModel(model=str(folder), device="cpu", ncpu=1, disable_update=True, disable_pbar=True), wav)
    arrays = {f"file/{name}": np.array(text) for name, text in texts.items()}
    arrays |= {f"binary/{BPE_FILE}": np.frombuffer(bpe, dtype=np.uint8)}
    arrays |= {f"state/{name}": value for name, value in state.items()}
    path = GOLDEN / "sensevoice.npz"
    np.savez_compressed(path, pcm=pcm, **arrays, **outputs)
    print(path, path.stat().st_size, "bytes;", outputs["results"])


def train_pieces() -> bytes:
    """Return a small SentencePiece model with the labels as symbols of its own, as the published one has them."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([*TEXTS, "你好世界", "今天天气很好"]),
        model_writer=model,
        model_type="bpe",
        vocab_size=80,
        user_defined_symbols=LABELS,
        normalization_rule_name="identity",
        character_coverage=1.0,
        minloglevel=2,
    )
    return model.getvalue()


def statistics() -> str:
    """Return am.mvn with the line breaks and spaces of the published one."""
    rng = np.random.default_rng(0)
    num_features = 7 * MELS
    size = f"{num_features} {num_features}"
    lines = ["<Nnet> ", f"<Splice> {size}", "[ 0 ]"]
    for name, values in (("AddShift", 2 + rng.standard_normal(num_features)), ("Rescale", [0.2] * num_features)):
        lines += [f"<{name}> {size} ", "<LearnRateCoef> 0 [ " + " ".join(f"{x:.4f}" for x in values) + " ]"]
    return "\n".join([*lines, "</Nnet> "]) + "\n"


def build(folder: Path, vocab_size: int) -> dict[str, np.ndarray]:
    """Write model.pt; return its weights in float16."""
    torch.manual_seed(0)
    parts = {key: CONFIG[key] for key in ("encoder", "encoder_conf")}
    model = tables.model_classes.get("SenseVoiceSmall")(
        input_size=7 * MELS, vocab_size=vocab_size, **parts, **CONFIG["model_conf"]
    )
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(1.5)  # random weights of so few units would all say the same
        model.ctc.ctc_lo.bias[[1, 2]] = -20.0  # <s> and </s>, which no trained model emits
        for parameter in model.parameters():
            parameter.copy_(parameter.half())
    torch.save({"state_dict": model.state_dict()}, folder / "model.pt")
    return {name: value.numpy().astype(np.float16) for name, value in model.state_dict().items()}


def run(auto: Any, wav: torch.Tensor) -> dict[str, np.ndarray]:
    """Return what the model makes of one utterance, asked in two ways; labels stand before the frames."""
    model = auto.model
    feats, lens = extract_fbank([wav], data_type="sound", frontend=auto.kwargs["frontend"])
    outputs = {"feats": feats[0].numpy().copy()}
    results = {}
    for name, (language, use_itn) in ASKED.items():
        seen: list[torch.Tensor] = []
        hook = model.ctc.ctc_lo.register_forward_hook(lambda _module, _inputs, logits, seen=seen: seen.append(logits))
        (result,) = auto.generate(input=[wav], batch_size=1, language=language, use_itn=use_itn)
        hook.remove()
        log_probs = seen[0][0].log_softmax(1)
        assert len(log_probs) == int(lens) + 4
        best = log_probs.argmax(1)
        assert best[3] != best[4], "FunASR takes a label and the same token after it for one"
        outputs[f"{name}_log_probs"] = log_probs.numpy()
        results[name] = result["text"]
    return outputs | {"results": np.array(json.dumps(results, ensure_ascii=False))}


if __name__ == "__main__":
    main()
