"""ESPnet's OWSM-CTC and Conformer-CTC models to our model folders.

Nothing of a checkpoint is executed: YAML is read as data, weights by torch's restricted unpickler, and files are only
looked for inside the folder. The conversion is strict both ways: an option, a tensor or a shape that has no
counterpart here is an error that names it.

Source: the model folders of ESPnet 202511 (Apache-2.0), packed (``meta.yaml``) or as training leaves them.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath
from typing import Any

import torch
import yaml
from torch import Tensor

from speechnar.errors import CheckpointError, ModelNotFoundError
from speechnar.models.base import save_model
from speechnar.models.interop.espnet_names import KeyMapping, check_fit, listed, map_state
from speechnar.models.interop.espnet_options import EspnetOptions, parse_options
from speechnar.models.owsm_ctc import OwsmCtc
from speechnar.text.tokenizer import CharTokenizer, SentencePieceTokenizer, Tokenizer

BPE_FILE = "bpe.model"


@dataclass(frozen=True)
class ConversionReport:
    """What was converted; its text is a table of every tensor."""

    destination: Path
    num_parameters: int
    keys: tuple[KeyMapping, ...]

    def __str__(self) -> str:
        rows = [
            (key.source, " x ".join(map(str, key.shape)) or "()", key.destination or "skipped") for key in self.keys
        ]
        widths = [max(len(row[column]) for row in rows) for column in range(2)]
        lines = [f"{source:<{widths[0]}}  {shape:<{widths[1]}}  {name}" for source, shape, name in rows]
        return "\n".join([*lines, f"{len(rows)} tensors, {self.num_parameters:,} parameters -> {self.destination}"])


def convert_espnet(source: str | Path, destination: str | Path, *, skip_decoder: bool = False) -> ConversionReport:
    """Turn an ESPnet model folder into a model folder of ours.

    Args:
        source: an unpacked or downloaded ESPnet model with ``meta.yaml``, or a folder holding ``config.yaml``, one
            ``*.pth`` and, for subwords, ``bpe.model``.
        destination: folder to write; created if absent.
        skip_decoder: leave out the attention decoder or the transducer of a hybrid Conformer and keep its CTC branch.

    Raises:
        ModelNotFoundError: ``source`` lacks one of these files.
        ConfigError: the model has options that our implementation has not; all of them are named.
        CheckpointError: the files point outside the folder, the weights hold more than tensors, or are not those of
            the configuration.
        DataError: the token list and the SentencePiece model do not belong together.
    """
    source, destination = Path(source), Path(destination)
    config_path, weights_path = _find_files(source)
    options = parse_options(_read_yaml(config_path), str(config_path))
    tokenizer = _load_tokenizer(options, source, config_path)
    state, keys = map_state(_read_weights(weights_path), source=str(weights_path), skip_decoder=skip_decoder)
    with torch.device("meta"):  # nothing is allocated before everything is known to fit
        model = OwsmCtc(options.to_config(), tokenizer)
    check_fit(model, state, source=str(weights_path))
    model.load_state_dict(state, assign=True)
    save_model(destination, model, tokenizer, card=_card(source, tokenizer))
    return ConversionReport(destination, sum(parameter.numel() for parameter in model.parameters()), keys)


def _find_files(source: Path) -> tuple[Path, Path]:
    """Return the paths of configuration and weights."""
    meta_path = source / "meta.yaml"
    if meta_path.is_file():
        meta = _read_yaml(meta_path)
        for task in ("s2t", "asr"):
            config = _entry(meta, "yaml_files", f"{task}_train_config")
            weights = _entry(meta, "files", f"{task}_model_file")
            if config is not None and weights is not None:
                return _existing(source, config), _existing(source, weights)
        raise CheckpointError(f"{meta_path}: must name s2t_train_config and s2t_model_file (or asr_...)")
    weights_files = sorted(source.glob("*.pth"))
    if not (source / "config.yaml").is_file() or len(weights_files) != 1:
        raise ModelNotFoundError(
            f"{source}: need meta.yaml, or config.yaml and one .pth file; found {len(weights_files)} .pth files"
        )
    return source / "config.yaml", weights_files[0]


def _entry(meta: Mapping[str, Any], section: str, name: str) -> object:
    entries = meta.get(section)
    return entries.get(name) if isinstance(entries, dict) else None


def _existing(source: Path, name: object) -> Path:
    """Return ``source / name``, which must exist and be written as a path below ``source``.

    Links are followed: a hub's snapshot consists of links into the hub's cache.
    """
    if not isinstance(name, str) or not _is_below(name):
        raise CheckpointError(f"{source}: files must lie inside the folder, got {str(name)[:200]!r}")
    if not (source / name).is_file():
        raise ModelNotFoundError(f"{source}: {name[:200]} is missing")
    return source / name


def _is_below(name: str) -> bool:
    path = PureWindowsPath(name)  # knows both kinds of separators, and drives
    return bool(path.parts) and not path.anchor and ".." not in path.parts


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError, RecursionError) as error:
        raise CheckpointError(f"{path}: must be plain YAML ({' '.join(str(error).split())[:200]})") from None
    if not isinstance(values, dict):
        raise CheckpointError(f"{path}: must hold a mapping, got {type(values).__name__}")
    return values


def _read_weights(path: Path) -> dict[str, Tensor]:
    """Read a ``.pth`` of tensors; anything else in it is refused before it could run."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged pickle raises whatever its bytes happen to say
        reason = " ".join(str(error).split())[:200]
        raise CheckpointError(f"{path}: must be a checkpoint of tensors only ({reason})") from None
    if isinstance(state, dict) and isinstance(state.get("module"), dict):
        state = state["module"]  # DeepSpeed wraps it
    if not isinstance(state, dict) or not state:
        raise CheckpointError(f"{path}: must hold a mapping of names to tensors")
    strangers = [str(key)[:60] for key, value in state.items() if not (isinstance(key, str) and torch.is_tensor(value))]
    if strangers:
        raise CheckpointError(f"{path}: must hold a mapping of names to tensors; not so: {listed(strangers)}")
    return state


def _load_tokenizer(options: EspnetOptions, source: Path, config_path: Path) -> Tokenizer:
    if options.unit == "char":
        return CharTokenizer(options.pieces(), source=f"{config_path}: token_list")
    named = options.bpemodel or BPE_FILE
    names = [PureWindowsPath(named).name, BPE_FILE]  # packed models keep the path of the machine they were trained on
    candidates = [source / named] if _is_below(named) else []
    candidates += [folder / name for folder in (config_path.parent, source) for name in names]
    for path in candidates:
        if path.is_file():
            return SentencePieceTokenizer(path, options.pieces(), source=f"{config_path}: token_list")
    raise ModelNotFoundError(f"{source}: the SentencePiece model {named[:200]} is missing; put {BPE_FILE} there")


def _card(source: Path, tokenizer: Tokenizer) -> str:
    languages = sorted(tokenizer.language_ids())
    tasks = ["asr", *(["st"] if any(piece.startswith("<st_") for piece in tokenizer.pieces) else [])]
    header = yaml.safe_dump({"language": languages, "tasks": tasks}, default_flow_style=None, width=1000)
    name = source.resolve().name
    return f"---\n{header}---\n# {name}\n\nConverted from an ESPnet checkpoint; the licence of the original applies.\n"
