"""Checkpoints: one complete state to resume from, and the weights of the best steps to average.

``checkpoints/last.pt`` is everything needed to continue bit for bit, ``previous.pt`` the one before it, in case that is
damaged; ``checkpoints/step-<n>.pt`` are weights only; ``checkpoints/best.json`` lists the latter, best first. Files
appear by renaming a synced temporary file, so a process killed at any moment leaves the previous ones whole. Files hold
tensors and plain containers, never code, and their sums are checked when they are read.
"""

import json
import logging
import os
import random
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from speechnar.errors import CheckpointError
from speechnar.pickled import check_records, load_pickled

logger = logging.getLogger(__name__)

FOLDER = "checkpoints"
LAST, PREVIOUS = "last.pt", "previous.pt"
BEST = "best.json"


def save_checkpoint(path: Path, payload: Mapping[str, Any], *, previous: Path | None = None) -> None:
    """Write ``payload`` (tensors, numbers, strings and plain containers of them) so that it is there whole or not.

    Args:
        path: where to.
        payload: what.
        previous: where the file goes that is at ``path``; None: it is replaced.

    Raises:
        CheckpointError: it cannot be written; what was there still is.
    """
    temporary = path.with_name(f"{path.name}.tmp")
    try:
        with temporary.open("wb") as file:
            torch.save(dict(payload), file)
            file.flush()
            os.fsync(file.fileno())
    except (OSError, RuntimeError) as error:  # torch's writer of archives makes the one of the other
        temporary.unlink(missing_ok=True)
        reason = " ".join(str(error).split())[:120]
        raise CheckpointError(
            f"{path}: cannot be written ({reason}); once there is room, the same command continues the run"
        ) from None
    if previous is not None and path.exists():
        path.replace(previous)
    temporary.replace(path)
    _sync_folder(path.parent)


def load_checkpoint(path: str | Path, *, device: str | torch.device = "cpu") -> dict[str, Any]:
    """Read a checkpoint; pickled code in it is refused, not run.

    Raises:
        CheckpointError: the file is missing, torn, has other bytes than were written, or holds anything but tensors
            and plain containers.
    """
    try:
        check_records(path)
        if zipfile.is_zipfile(path):  # torch does not look at the sums that it writes
            with zipfile.ZipFile(path) as archive:
                damaged = archive.testzip()
            if damaged is not None:
                raise CheckpointError(f"{path}: is damaged (the sum of {damaged[:60]!r} is another)")
        payload = load_pickled(path, device=device)
    except CheckpointError:
        raise
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror})") from None
    except Exception as error:  # a hostile pickle makes the restricted unpickler fail in any way
        reason = " ".join(str(error).split())[:120]
        raise CheckpointError(f"{path}: not a checkpoint of tensors and plain containers ({reason})") from None
    if not isinstance(payload, dict):
        raise CheckpointError(f"{path}: must hold a mapping, got {type(payload).__name__}")
    return payload


def weights_of(payload: Mapping[str, Any], *, source: str) -> dict[str, Tensor]:
    """Return the weights to use from a checkpoint: the averaged ones (EMA) where training kept them.

    Raises:
        CheckpointError: there are none.
    """
    weights = payload.get("ema") or payload.get("model")
    if not isinstance(weights, dict) or not all(isinstance(tensor, Tensor) for tensor in weights.values()):
        raise CheckpointError(f"{source}: holds no model weights")
    return dict(weights)


def average_checkpoints(paths: Sequence[str | Path]) -> dict[str, Tensor]:
    """Return the mean of the weights in ``paths``, computed in float64; integer tensors are the first file's.

    Raises:
        CheckpointError: no path is given, a file is unreadable, or the files hold different models.
    """
    if not paths:
        raise CheckpointError("at least one checkpoint is needed to average, got none")
    first = weights_of(load_checkpoint(paths[0]), source=str(paths[0]))
    sums = {name: tensor.double() for name, tensor in first.items() if tensor.is_floating_point()}
    for path in paths[1:]:
        weights = weights_of(load_checkpoint(path), source=str(path))
        if _shapes(weights) != _shapes(first):
            raise CheckpointError(f"{path}: holds another model than {paths[0]}; average checkpoints of one run")
        for name in sums:
            sums[name] += weights[name]
    return {
        name: (sums[name] / len(paths)).to(tensor.dtype) if name in sums else tensor for name, tensor in first.items()
    }


def load_last(folder: Path) -> tuple[Path, dict[str, Any]] | None:
    """Return the newest checkpoint in ``folder`` that is whole, and where it is; None where there is none at all.

    Raises:
        CheckpointError: none of those that are there is whole.
    """
    paths = [folder / name for name in (LAST, PREVIOUS) if (folder / name).exists()]
    for path in paths:
        try:
            return path, load_checkpoint(path)
        except CheckpointError as error:
            if path == paths[-1]:
                raise CheckpointError(
                    f"{error}, and none before it is whole; move {folder} elsewhere, and begin anew by init_from with "
                    "the weights of a step-<n>.pt in it"
                ) from None
            logger.warning("%s; the run goes on from the one before it", error)
    return None


def find_last(exp_dir: str | Path) -> Path | None:
    """Return the checkpoint from which a run in ``exp_dir`` would resume, if there is one."""
    paths = (Path(exp_dir) / FOLDER / name for name in (LAST, PREVIOUS))
    return next((path for path in paths if path.exists()), None)


def find_best(exp_dir: str | Path, count: int = 1) -> list[Path]:
    """Return the weights of up to ``count`` best steps, best first.

    Raises:
        CheckpointError: the run has no list of best steps yet, or it is malformed.
    """
    folder = Path(exp_dir) / FOLDER
    try:
        ranked = json.loads((folder / BEST).read_text(encoding="utf-8"))
        return [folder / step_file(entry["step"]) for entry in ranked[:count]]
    except (OSError, ValueError, TypeError, KeyError):
        raise CheckpointError(f"{folder / BEST}: no readable list of best steps; train past a validation") from None


def step_file(step: int) -> str:
    """Name the file of one step's weights."""
    return f"step-{int(step):08d}.pt"


def publish_best(folder: Path, ranked: Sequence[Mapping[str, Any]]) -> None:
    """List ``ranked`` (dicts with ``step`` and ``metrics``, best first) and delete the weights of all other steps."""
    write_text(folder / BEST, json.dumps(list(ranked), indent=2) + "\n")
    kept = {step_file(entry["step"]) for entry in ranked}
    for path in [*folder.glob("step-*.pt"), *folder.glob("*.tmp")]:
        if path.name not in kept:
            path.unlink()


def write_text(path: Path, text: str) -> None:
    """Replace a text file whole."""
    temporary = path.with_name(f"{path.name}.tmp")
    with temporary.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def rng_state() -> dict[str, Any]:
    """Return the state of every global random generator, as tensors and plain containers."""
    name, keys, position, has_gauss, gauss = np.random.get_state()
    version, numbers, gauss_next = random.getstate()
    return {
        "python": [version, list(numbers), gauss_next],
        "numpy": [name, np.asarray(keys).tolist(), position, has_gauss, gauss],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state() if torch.cuda.is_available() else None,
    }


def set_rng_state(state: Mapping[str, Any]) -> None:
    """Restore what `rng_state` returned."""
    version, numbers, gauss_next = state["python"]
    random.setstate((version, tuple(numbers), gauss_next))
    name, keys, position, has_gauss, gauss = state["numpy"]
    np.random.set_state((name, np.array(keys, dtype=np.uint32), position, has_gauss, gauss))
    torch.set_rng_state(state["torch"].cpu())
    if state["cuda"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"].cpu())


def _shapes(weights: Mapping[str, Tensor]) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in weights.items()}


def _sync_folder(folder: Path) -> None:
    """Make a rename last through a power cut, where the system lets folders be synced."""
    if not hasattr(os, "O_DIRECTORY"):
        return
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
