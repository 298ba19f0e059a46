"""Repositories of exactly the published file layouts, with small random weights, as files by name."""

import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from tests.reference import funasr_folders
from tests.reference.test_golden_magnet import write_folder as write_audiocraft
from tests.unit.interop import test_wav2vec2, test_whisper
from tests.unit.tiny import save_tiny_model

GOLDEN = Path(__file__).parents[1] / "reference" / "golden"
EXP = "exp/s2t_train_s2t_multitask-ctc_ebf27_conv2d8_size1024_raw_bpe50000"
ESPNET_WEIGHTS = f"{EXP}/valid.total_count.ave_5best.till45epoch.pth"
CARD = b"---\nlanguage: multilingual\nlicense: cc-by-4.0\n---\n# A model\n"


def saved(state: Any) -> bytes:
    """Return what torch.save writes."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getvalue()


def espnet(**changes: torch.Tensor) -> dict[str, bytes]:
    """As espnet/owsm_ctc_v3.1_1B, by characters instead of subwords; with files that nobody needs."""
    with np.load(GOLDEN / "owsm_ctc.npz", allow_pickle=False) as file:
        golden = dict(file)
    state = {name[6:]: torch.from_numpy(value) for name, value in golden.items() if name.startswith("state/")}
    meta = {
        "espnet": "202308",
        "files": {"s2t_model_file": ESPNET_WEIGHTS},
        "yaml_files": {"s2t_train_config": f"{EXP}/config.yaml"},
    }
    return {
        ".gitattributes": b"*.pth filter=lfs\n",
        "README.md": CARD,
        "meta.yaml": yaml.safe_dump(meta).encode(),
        f"{EXP}/config.yaml": yaml.safe_dump(json.loads(str(golden["options"])), allow_unicode=True).encode(),
        ESPNET_WEIGHTS: saved(state | changes),
        f"{EXP}/images/loss.png": b"\x89PNG",
        f"{EXP}/checkpoint.pth": b"optimizer" * 1000,
        "exp/s2t_stats_raw_bpe50000/train/feats_stats.npz": b"PK",
    }


def folder_files(folder: Path) -> dict[str, bytes]:
    """Return the files of a folder by name."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def funasr(scratch: Path) -> dict[str, bytes]:
    """As funasr/paraformer-zh."""
    folder = funasr_folders.write_folder(funasr_folders.read_golden("seaco"), scratch / "funasr")
    extra = {"README.md": b"---\nlicense: other\nlicense_name: model-license\n---\n", "example/hotword.txt": b"x"}
    return folder_files(folder) | extra | {"model_quant.onnx": b"onnx" * 2000, "example/asr_example.wav": b"RIFF"}


def audiocraft(scratch: Path) -> dict[str, bytes]:
    """As facebook/magnet-small-10secs."""
    with np.load(GOLDEN / "magnet.npz", allow_pickle=False) as file:
        return folder_files(write_audiocraft(dict(file), scratch / "magnet"))


def wav2vec2(scratch: Path, *, options: Mapping[str, Any] = {}) -> dict[str, bytes]:
    """As facebook/wav2vec2-base-960h."""
    state = test_wav2vec2.with_head(test_wav2vec2.make_state("large"))
    settings = test_wav2vec2.make_options("large", pad_token_id=0, **options)
    folder = test_wav2vec2.write_folder(scratch / "wav2vec2", settings, state, vocab=test_wav2vec2.vocabulary())
    card = b"---\nlanguage: en\nlicense: apache-2.0\n---\n"
    return folder_files(folder) | {
        "README.md": card,
        "pytorch_model.bin": b"twin" * 2000,
        "tf_model.h5": b"twin" * 2000,
    }


def whisper(scratch: Path) -> dict[str, bytes]:
    """As openai/whisper-base."""
    files = folder_files(test_whisper.write_folder(scratch / "whisper", "hf", test_whisper.openai_state()))
    config = json.loads(files["config.json"]) | {"model_type": "whisper"}
    return files | {"config.json": json.dumps(config).encode(), "pytorch_model.bin": b"twin" * 2000}


def ours(scratch: Path) -> dict[str, bytes]:
    """A model folder of this package."""
    return folder_files(save_tiny_model(scratch / "ours")) | {"train.log": b"x", "code.py": b"raise SystemExit"}
