"""What ``torch.save`` wrote, read so that nothing in it is executed and nothing outside of it is read."""

import tarfile
import zipfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from speechnar.files import regular


def load_pickled(path: str | Path, *, device: str | torch.device = "cpu") -> Any:
    """Read tensors and plain containers, onto ``device``.

    Raises:
        ValueError: it is an archive as torch wrote them before version 0.1.10 (tar): torch would unpack it, with the
            links that are in it, and read where they lead. Or it unpacks to more than it is (`check_records`).
        Exception: of any class, as a damaged pickle raises whatever its bytes happen to say.
    """
    with suppress(tarfile.TarError), tarfile.open(regular(path), "r:"):
        raise ValueError("it is a tar archive, which torch has not written since 2017")
    check_records(path)
    return torch.load(path, map_location=device, weights_only=True)


def check_records(path: str | Path) -> None:
    """Refuse an archive that unpacks to more than it is: torch neither compresses its records nor lets them overlap.

    Raises:
        OSError: it is no file.
        ValueError: it does; a few megabytes would become any number of them.
        zipfile.BadZipFile: its table of records is damaged.
    """
    if not zipfile.is_zipfile(regular(path)):
        return
    with zipfile.ZipFile(path) as archive:
        unpacked = sum(record.file_size for record in archive.infolist())
    if unpacked > (size := Path(path).stat().st_size):
        raise ValueError(f"it unpacks to {unpacked} bytes, more than its own {size}")
