"""Models of the hub by name: fetched, converted once, and kept.

Only the files that the conversion reads are fetched. A model appears in the cache (`speechnar.store`) by renaming, once
it is whole and its numbers are finite, and one process at a time works on a repository: whatever is killed, and
whenever, whoever comes next finds a model or continues. A model that is there is never asked for again.
"""

import logging
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors import safe_open

from speechnar import store
from speechnar.errors import CheckpointError, ConfigError, ModelNotFoundError, SpeechnarError
from speechnar.hub import MODEL_FILES, parse_address, read_card, read_kind
from speechnar.interop import family_of
from speechnar.interop.family import CARD_FILE, CONFIG_FILE, SAFETENSORS_FILE, Family, Listing, check_wanted
from speechnar.interop.files import ConversionReport
from speechnar.interop.modelscope import OWNERS, open_modelscope
from speechnar.interop.repository import Repository, open_repository
from speechnar.store import Address
from speechnar.text.languages import to_iso3

logger = logging.getLogger(__name__)

MAX_SHOWN_LICENSE = 60


def pull_model(name: str, *, refresh: bool = True) -> Path:
    """Fetch ``owner/name[@revision]`` from the hub, convert it into the cache, and return its folder.

    ``iic/name`` is fetched from ModelScope.

    Args:
        name: of the repository; without a revision, its main branch.
        refresh: ask the hub what the revision means now; otherwise, a model that is here is returned as it is.

    Raises:
        ModelNotFoundError: ``name`` is written otherwise; the hub does not have it or cannot be reached; or it is of no
            toolkit that is known here.
        CheckpointError: what the hub has is damaged, or holds more than tensors and settings.
        ConfigError: it has options that our implementation has not.
        DataError: its vocabulary or statistics are malformed.
    """
    address = parse_address(name)
    with store.locked(address):
        here = store.find(address)  # another process may have been faster
        if here is not None and (not refresh or store.is_offline()):
            return here
        is_on_modelscope = address.repo.split("/")[0] in OWNERS and not store.is_offline()
        repository = open_modelscope(address) if is_on_modelscope else open_repository(address)
        folder = address.model_folder(repository.commit)
        if not store.is_complete(folder):
            _convert_into(folder, repository, address)
        for scratch in (store.PARTIAL, store.DOWNLOAD):  # of a process that died, too
            shutil.rmtree(address.folder / scratch, ignore_errors=True)
        store.record(address, repository.commit)
    return folder


def _convert_into(folder: Path, repository: Repository, address: Address) -> None:
    """Fetch what is needed and make ``folder`` of it, in one step at the end."""
    family = OURS if OURS.recognizes(repository) else family_of(repository)
    names = check_wanted(family, repository)
    num_bytes = sum(map(repository.num_bytes, names))
    _check_space(address, 2 * num_bytes)
    logger.info("%s: %s, %d files, %.1f MB", address, family.name, len(names), num_bytes / 1e6)
    partial = address.folder / store.PARTIAL
    shutil.rmtree(partial, ignore_errors=True)  # of a process that died: this one holds the lock
    source, model = partial / "source" / folder.name, partial / "model" / folder.name
    try:
        for name in names:
            _place(repository.fetch(name), source / name)
        report = _converted(family, source, model, address)
        _check_finite(model, address)
        _write_card(model, repository)
        folder.parent.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(folder.parent, ignore_errors=True)
        model.parent.replace(folder.parent)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    skipped = sum(key.destination is None for key in report.keys)
    logger.info(
        "%s: %d parameters, %d tensors without use here; kept in %s", address, report.num_parameters, skipped, folder
    )


def _converted(family: Family, source: Path, model: Path, address: Address) -> ConversionReport:
    """Convert, with messages that name the repository instead of a folder that will be gone."""
    try:
        return family.convert(source, model)
    except SpeechnarError as error:
        raise type(error)(str(error).replace(str(source), str(address))) from None
    except (RuntimeError, MemoryError, ValueError, OverflowError) as error:  # of sizes that no model can have
        reason = " ".join(str(error).split())[:200]
        raise CheckpointError(f"{address}: no model can be built from what it says of itself ({reason})") from None


def _place(file: Path, place: Path) -> None:
    """Make a file appear below the folder that is converted, as a link where that is possible."""
    place.parent.mkdir(parents=True, exist_ok=True)
    try:
        place.symlink_to(file.resolve())
    except OSError:  # on Windows it needs a privilege
        shutil.copyfile(file, place)


def _check_space(address: Address, num_bytes: int) -> None:
    address.folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(address.folder).free
    if free < num_bytes:
        raise ModelNotFoundError(
            f"{address}: to be fetched and converted, it needs {num_bytes / 1e9:.1f} GB in {address.folder.parent}; "
            f"{free / 1e9:.1f} GB are free there: make room, or let HF_HOME name a larger disk"
        )


def _check_finite(folder: Path, address: Address) -> None:
    """Raise CheckpointError where a weight is not a number, or infinite."""
    with safe_open(folder / SAFETENSORS_FILE, framework="pt") as file:
        for name in file.keys():  # noqa: SIM118  # the file is no mapping
            if not bool(torch.isfinite(file.get_tensor(name)).all()):
                raise CheckpointError(f"{address}: its weights must be finite numbers; {name} has others")


def _write_card(folder: Path, repository: Repository) -> None:
    """Add to the card what the repository's own says of licence and languages, and where the model is from."""
    theirs = read_card(repository.path(CARD_FILE).parent) if CARD_FILE in repository.names else {}
    added = {"license": _license_of(theirs), "language": _languages_of(theirs)}
    values = {key: value for card in (added, read_card(folder)) for key, value in card.items() if value}
    values["source"] = f"{repository.source}@{repository.commit}"
    path = folder / CARD_FILE
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    body = re.sub(r"\A---\n.*?\n---\n", "", text, count=1, flags=re.DOTALL)
    header = yaml.safe_dump(values, default_flow_style=None, width=1000, allow_unicode=True, sort_keys=False)
    path.write_text(f"---\n{header}---\n{body}", encoding="utf-8")


def _license_of(card: Mapping[str, Any]) -> str:
    name = card.get("license_name") if card.get("license") == "other" else None
    return " ".join(str(name or card.get("license") or "").split())[:MAX_SHOWN_LICENSE]


def _languages_of(card: Mapping[str, Any]) -> list[str]:
    """Return the languages of a card of the hub; none if one of them is no language that is known here."""
    value = card.get("language")
    try:
        return [to_iso3(str(code)) for code in (value if isinstance(value, list) else [value] if value else [])]
    except ConfigError:
        return []


def _is_ours(listing: Listing) -> bool:
    return CONFIG_FILE in listing.names and read_kind(listing.path(CONFIG_FILE)) != ""


def _wanted_of_ours(listing: Listing) -> tuple[str, ...]:
    optional = sorted(name for name in listing.names if any(Path(name).match(pattern) for pattern in MODEL_FILES))
    return (*store.REQUIRED_FILES, *(name for name in optional if "/" not in name))


def _keep(source: Path, destination: Path) -> ConversionReport:
    """Take a model folder of ours as it is."""
    shutil.copytree(source, destination)
    with safe_open(destination / SAFETENSORS_FILE, framework="pt") as file:
        slices = [file.get_slice(name) for name in file.keys()]  # noqa: SIM118  # the file is no mapping
    return ConversionReport(destination, sum(int(torch.Size(part.get_shape()).numel()) for part in slices), ())


OURS = Family("speechnar", "config.json and model.safetensors", _is_ours, _wanted_of_ours, _keep)
