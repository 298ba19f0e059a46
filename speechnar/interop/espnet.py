"""ESPnet's OWSM-CTC models and its recognisers with a CTC branch to our model folders.

Nothing of a checkpoint is executed: YAML is read as data, weights by torch's restricted unpickler, and files are only
looked for inside the folder. The conversion is strict both ways: an option, a tensor or a shape that has no
counterpart here is an error that names it.

Source: the model folders of ESPnet 202511 (Apache-2.0), packed (``meta.yaml``) or as training leaves them.
"""

import logging
from collections.abc import Mapping
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from torch import nn

from speechnar.errors import CheckpointError, ConfigError, ModelNotFoundError
from speechnar.interop.espnet_names import map_state
from speechnar.interop.espnet_options import AsrOptions, EspnetOptions, parse_options
from speechnar.interop.family import CARD_FILE, Family, FolderListing, Listing, listed_of
from speechnar.interop.files import (
    ConversionReport,
    card_of,
    is_below,
    read_tensors,
    read_yaml,
    save_converted,
    with_weights,
)
from speechnar.models.asr.joint import Joint, JointConfig
from speechnar.models.asr.owsm_ctc import OwsmCtc
from speechnar.models.asr.transformer_ar import TransformerArHeadConfig
from speechnar.text.tokenizer import CharTokenizer, SentencePieceTokenizer, Tokenizer

logger = logging.getLogger(__name__)

META_FILE, CONFIG_FILE, BPE_FILE = "meta.yaml", "config.yaml", "bpe.model"


def convert_espnet(source: str | Path, destination: str | Path, *, skip_decoder: bool = False) -> ConversionReport:
    """Turn an ESPnet model folder into a model folder of ours.

    Args:
        source: an unpacked or downloaded ESPnet model with ``meta.yaml``, or a folder holding ``config.yaml``, one
            ``*.pth`` and, for subwords, ``bpe.model``, at the top or below ``exp*/``.
        destination: folder to write; created if absent.
        skip_decoder: leave out the attention decoder of a hybrid model, too, and keep its CTC branch alone. Transducers
            and decoders that are no Transformer are left out anyway, with a warning that names them.

    Raises:
        ModelNotFoundError: ``source`` lacks one of these files.
        ConfigError: the model has options that our implementation has not; all of them are named.
        CheckpointError: the files point outside the folder, the weights hold more than tensors, or are not those of
            the configuration.
        DataError: the token list and the SentencePiece model do not belong together.
    """
    source, destination = Path(source), Path(destination)
    listing = FolderListing(source)
    config_name, weights_name = _find_files(listing)
    config_path, weights_path = listing.path(config_name), listing.path(weights_name)
    options = parse_options(read_yaml(config_path), str(config_path))
    tokenizer = _load_tokenizer(options, source, config_name)
    theirs = read_tensors(weights_path, wrappers=("module",))  # DeepSpeed wraps it
    trunk, head = options.to_config(), None if skip_decoder else _head_of(options, source)
    state, keys = map_state(
        theirs,
        source=str(weights_path),
        skip_decoder=head is None and isinstance(options, AsrOptions),
        trunk="" if head is None else "trunk.",
    )

    def make() -> nn.Module:
        if head is None:
            return OwsmCtc(trunk, tokenizer)
        return Joint(JointConfig(trunk=trunk, transformer_ar=head), tokenizer)

    model = with_weights(make, state, source=str(weights_path))
    tasks = ["asr", *(["st"] if any(piece.startswith("<st_") for piece in tokenizer.pieces) else [])]
    card = card_of(source, "ESPnet", languages=sorted(tokenizer.language_ids()), tasks=tasks)
    return save_converted(destination, model, tokenizer, keys, card=card)


def _head_of(options: EspnetOptions, source: Path) -> TransformerArHeadConfig | None:
    """Return our configuration of the attention decoder, if there is one that we have a counterpart of."""
    if not isinstance(options, AsrOptions):
        return None
    try:
        return options.head_config()
    except ConfigError as error:
        logger.warning("%s: its decoder is left out, CTC is kept (%s)", source, " ".join(str(error).split()))
        return None


def is_espnet(listing: Listing) -> bool:
    """Tell whether files are of a model of ESPnet, packed or as training leaves them."""
    return META_FILE in listing.names or bool(_weights_beside_config(listing)[1])


def wanted_of_espnet(listing: Listing) -> tuple[str, ...]:
    """Return configuration, weights, of subwords the SentencePiece model and, where it is listed, the card.

    Raises:
        CheckpointError: they are malformed.
        ModelNotFoundError: there is no configuration beside one file of weights.
    """
    config, weights = _find_files(listing)
    options = read_yaml(listing.path(config)) if config in listing.names else {}
    meta, card = listed_of(listing, META_FILE), listed_of(listing, CARD_FILE)
    if options.get("token_type") == "char":
        return (*meta, config, weights, *card)
    named = options.get("bpemodel")
    candidates = _bpe_names(named if isinstance(named, str) else BPE_FILE, config)
    bpe = next((name for name in candidates if name in listing.names), candidates[0])
    return (*meta, config, weights, bpe, *card)


def _find_files(listing: Listing) -> tuple[str, str]:
    """Return the names of configuration and weights."""
    if META_FILE in listing.names:
        meta = read_yaml(listing.path(META_FILE))
        for task in ("s2t", "asr"):
            named = (
                _entry(meta, "yaml_files", f"{task}_train_config", listing.source),
                _entry(meta, "files", f"{task}_model_file", listing.source),
            )
            if named[0] is not None and named[1] is not None:
                return named[0], named[1]
        raise CheckpointError(
            f"{listing.source}/{META_FILE}: must name s2t_train_config and s2t_model_file (or asr_...)"
        )
    config, weights_files = _weights_beside_config(listing)
    if config not in listing.names or len(weights_files) != 1:
        raise ModelNotFoundError(
            f"{listing.source}: need meta.yaml, or config.yaml and one .pth file; found {len(weights_files)} .pth files"
        )
    return config, weights_files[0]


def _weights_beside_config(listing: Listing) -> tuple[str, list[str]]:
    """Return where ``config.yaml`` stands or belongs, at the top or below ``exp*/``, and the weights beside it."""
    beside: dict[str, list[str]] = {}
    for name in sorted(listing.names):
        path = PurePosixPath(name)
        in_place = len(path.parts) == 1 or path.parts[0].startswith("exp")
        if path.suffix == ".pth" and in_place:
            beside.setdefault((path.parent / CONFIG_FILE).as_posix(), []).append(name)
    with_config = [config for config in beside if config in listing.names or "/" not in config]
    if len(with_config) != 1:
        return CONFIG_FILE, [name for config in with_config for name in beside[config]]
    return with_config[0], beside[with_config[0]]


def _entry(meta: Mapping[str, Any], section: str, name: str, source: str) -> str | None:
    entries = meta.get(section)
    value = entries.get(name) if isinstance(entries, dict) else None
    if value is None or (isinstance(value, str) and is_below(value)):
        return value
    raise CheckpointError(f"{source}: files must lie inside the folder, got {str(value)[:200]!r}")


def _load_tokenizer(options: EspnetOptions, source: Path, config_name: str) -> Tokenizer:
    config_path = source / config_name
    if options.unit == "char":
        return CharTokenizer(options.pieces(), source=f"{config_path}: token_list")
    named = options.bpemodel or BPE_FILE
    for name in _bpe_names(named, config_name):
        if (source / name).is_file():
            return SentencePieceTokenizer(source / name, options.pieces(), source=f"{config_path}: token_list")
    raise ModelNotFoundError(f"{source}: the SentencePiece model {named[:200]} is missing; put {BPE_FILE} there")


def _bpe_names(named: str, config_name: str) -> list[str]:
    """Return where the SentencePiece model may be; packed models keep the path of the machine they were trained on."""
    names = [PureWindowsPath(named).name, BPE_FILE]
    folders = (PurePosixPath(config_name).parent, PurePosixPath())
    below = [PurePosixPath(named)] if is_below(named) else []
    return [path.as_posix() for path in (*below, *(folder / name for folder in folders for name in names))]


ESPNET = Family("ESPnet", "meta.yaml, or config.yaml and one .pth file", is_espnet, wanted_of_espnet, convert_espnet)
