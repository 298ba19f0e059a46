"""FunASR folders out of the golden files, and what their ``configuration.json`` says."""

from pathlib import Path
from typing import Any

import numpy as np
import torch

GOLDEN = Path(__file__).parent / "golden"


def meta_of(**tokenizer_conf: str) -> dict[str, Any]:
    """Return ``configuration.json`` of a published model whose tokenizer reads these files."""
    return {
        "framework": "pytorch",
        "task": "auto-speech-recognition",
        "model": {"type": "funasr"},
        "pipeline": {"type": "funasr-pipeline"},
        "model_name_in_hub": {"ms": "", "hf": ""},
        "file_path_metas": {
            "init_param": "model.pt",
            "config": "config.yaml",
            "tokenizer_conf": tokenizer_conf,
            "frontend_conf": {"cmvn_file": "am.mvn"},
        },
    }


def read_golden(name: str) -> dict[str, np.ndarray]:
    """Return the arrays of golden/paraformer_NAME.npz, or of golden/sensevoice.npz."""
    path = GOLDEN / ("sensevoice.npz" if name == "sensevoice" else f"paraformer_{name}.npz")
    with np.load(path, allow_pickle=False) as file:
        return dict(file)


def golden_state(golden: dict[str, np.ndarray]) -> dict[str, torch.Tensor]:
    """Return the weights as FunASR used them."""
    state = {name[6:]: torch.from_numpy(value) for name, value in golden.items() if name.startswith("state/")}
    return {name: value.float() if value.is_floating_point() else value for name, value in state.items()}


def write_folder(golden: dict[str, np.ndarray], folder: Path) -> Path:
    """Write the FunASR folder of a golden file."""
    folder.mkdir()
    for name, text in golden.items():
        if name.startswith("file/"):
            (folder / name[5:]).write_text(str(text), encoding="utf-8")
        if name.startswith("binary/"):
            (folder / name[7:]).write_bytes(text.tobytes())
    torch.save({"state_dict": golden_state(golden)}, folder / "model.pt")
    return folder
