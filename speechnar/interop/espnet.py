"""ESPnet's OWSM-CTC and Conformer-CTC models to our model folders.

Nothing of a checkpoint is executed: YAML is read as data, weights by torch's restricted unpickler, and files are only
looked for inside the folder. The conversion is strict both ways: an option, a tensor or a shape that has no
counterpart here is an error that names it.

Source: the model folders of ESPnet 202511 (Apache-2.0), packed (``meta.yaml``) or as training leaves them.
"""

from collections.abc import Mapping
from pathlib import Path, PureWindowsPath
from typing import Any

import torch
import yaml

from speechnar.errors import CheckpointError, ModelNotFoundError
from speechnar.interop.espnet_names import check_fit, map_state
from speechnar.interop.espnet_options import EspnetOptions, parse_options
from speechnar.interop.files import ConversionReport, existing, is_below, read_tensors, read_yaml
from speechnar.models.asr.owsm_ctc import OwsmCtc
from speechnar.models.base import save_model
from speechnar.text.tokenizer import CharTokenizer, SentencePieceTokenizer, Tokenizer

BPE_FILE = "bpe.model"


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
    options = parse_options(read_yaml(config_path), str(config_path))
    tokenizer = _load_tokenizer(options, source, config_path)
    theirs = read_tensors(weights_path, wrappers=("module",))  # DeepSpeed wraps it
    state, keys = map_state(theirs, source=str(weights_path), skip_decoder=skip_decoder)
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
        meta = read_yaml(meta_path)
        for task in ("s2t", "asr"):
            config = _entry(meta, "yaml_files", f"{task}_train_config")
            weights = _entry(meta, "files", f"{task}_model_file")
            if config is not None and weights is not None:
                return existing(source, config), existing(source, weights)
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


def _load_tokenizer(options: EspnetOptions, source: Path, config_path: Path) -> Tokenizer:
    if options.unit == "char":
        return CharTokenizer(options.pieces(), source=f"{config_path}: token_list")
    named = options.bpemodel or BPE_FILE
    names = [PureWindowsPath(named).name, BPE_FILE]  # packed models keep the path of the machine they were trained on
    candidates = [source / named] if is_below(named) else []
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
