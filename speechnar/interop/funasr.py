"""FunASR's Paraformer models to our model folders: offline, with timestamps (BiCIF), with hotwords (SeACo), streaming.

Nothing of a checkpoint is executed: YAML and JSON are read as data, weights by torch's restricted unpickler, and files
are only looked for inside the folder. The conversion is strict both ways: an option, a tensor or a shape that has no
counterpart here is an error that names it; FunASR itself warns of missing tensors and skips those of another shape.

Source: the model folders of FunASR 1.4.16 (MIT licence).
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from speechnar.audio.cmvn import read_am_mvn
from speechnar.errors import CheckpointError, DataError, ModelNotFoundError
from speechnar.interop.espnet_names import check_fit
from speechnar.interop.family import SAFETENSORS_FILE, Family, FolderListing, Listing, listed_of
from speechnar.interop.files import ConversionReport, is_below, read_tensors, read_yaml
from speechnar.interop.funasr_names import map_state, module_names
from speechnar.interop.funasr_options import FunasrOptions, parse_options
from speechnar.models.asr.paraformer import Paraformer
from speechnar.models.base import save_model
from speechnar.text.tokenizer import CharTokenizer, LexiconTokenizer, Tokenizer, read_lexicon

META_FILE, CONFIG_FILE, WEIGHTS_FILE, LEXICON_FILE = "configuration.json", "config.yaml", "model.pt", "seg_dict"
WRAPPERS = ("state_dict", "model_state_dict", "model")
"""Keys under which FunASR looks for the tensors."""
SPECIALS = ("<blank>", "<sos>", "<eos>")
"""Pieces 0, 1 and 2 in our spelling."""
_CONFIG, _WEIGHTS, _STATISTICS, _TOKENS = "config", "init_param", "frontend_conf.cmvn_file", "tokenizer_conf.token_list"
_NEEDED = {
    _CONFIG: (CONFIG_FILE,),
    _WEIGHTS: (WEIGHTS_FILE,),
    _STATISTICS: ("am.mvn",),
    _TOKENS: ("tokens.json", "tokens.txt"),
}
"""What a model needs: the keys under which ``configuration.json`` names its files, and their usual names."""
_LEXICON = "tokenizer_conf.seg_dict_file"
_RENAMED = {"<s>": "<sos>", "</s>": "<eos>"}


def convert_funasr(source: str | Path, destination: str | Path) -> ConversionReport:
    """Turn a FunASR model folder into a model folder of ours.

    Args:
        source: folder with ``config.yaml``, ``model.pt``, ``am.mvn``, ``tokens.json`` or ``tokens.txt`` and, for words
            in pieces, ``seg_dict``; ``configuration.json`` may give these other names.
        destination: folder to write; created if absent.

    Raises:
        ModelNotFoundError: ``source`` lacks one of these files.
        ConfigError: the model has options that our implementation has not; all of one section are named.
        CheckpointError: the files point outside the folder, the weights hold more than tensors, or are not those of
            the configuration.
        DataError: tokens, lexicon or statistics are malformed.
    """
    source, destination = Path(source), Path(destination)
    files = _Files(FolderListing(source))
    config_path, weights_path = (files.path(key, *_NEEDED[key]) for key in (_CONFIG, _WEIGHTS))
    options = parse_options(read_yaml(config_path), str(config_path))
    config = options.to_config(str(config_path))
    tokenizer = _load_tokenizer(files, options)
    mean, std = read_am_mvn(files.path(_STATISTICS, *_NEEDED[_STATISTICS]))
    names = module_names(
        conformer=options.encoder == "ConformerEncoder", transformer=options.decoder == "ParaformerSANDecoder"
    )
    state, keys = map_state(read_tensors(weights_path, WRAPPERS), names, source=str(weights_path))
    state |= {"normalizer.mean": torch.from_numpy(mean), "normalizer.std": torch.from_numpy(std)}
    with torch.device("meta"):  # nothing is allocated before everything is known to fit
        model = Paraformer(config, tokenizer)
    check_fit(model, state, source=str(weights_path))
    model.load_state_dict(state, assign=True)
    save_model(destination, model, tokenizer, card=_card(source, tokenizer))
    return ConversionReport(destination, sum(parameter.numel() for parameter in model.parameters()), keys)


class _Files:
    """The files of a listing, by the names that ``configuration.json`` or custom gives them."""

    def __init__(self, listing: Listing) -> None:
        self._listing = listing
        self._named: Mapping[str, Any] = {}
        if META_FILE in listing.names:
            named = read_yaml(listing.path(META_FILE)).get("file_path_metas") or {}
            if not isinstance(named, dict):
                raise CheckpointError(f"{listing.source}/{META_FILE}: file_path_metas must be a mapping")
            self._named = named

    def name(self, key: str, *usual: str) -> str:
        """Return the name of the file of that key, or the first of the usual names that is listed.

        Raises:
            CheckpointError: it lies outside the folder.
            ModelNotFoundError: there is none.
        """
        found = self.find(key, *usual)
        if found is None:
            raise ModelNotFoundError(
                f"{self._listing.source}: need {' or '.join(usual)}, which a FunASR model has; found none"
            )
        return found

    def find(self, key: str, *usual: str) -> str | None:
        """Return the same, or None where there is none."""
        value: Any = self._named
        for part in key.split("."):
            value = value.get(part) if isinstance(value, dict) else None
        if value is not None:
            if not isinstance(value, str) or not is_below(value):
                raise CheckpointError(
                    f"{self._listing.source}: files must lie inside the folder, got {str(value)[:200]!r}"
                )
            return value
        return next(iter(listed_of(self._listing, *usual)), None)

    def path(self, key: str, *usual: str) -> Path:
        """Return the file whose name is `name`; errors are the same."""
        return self._listing.path(self.name(key, *usual))


def is_funasr(listing: Listing) -> bool:
    """Tell whether files are of a model of FunASR."""
    # Other models on ModelScope have a file configuration.json as well.
    has_meta = META_FILE in listing.names and SAFETENSORS_FILE not in listing.names
    return WEIGHTS_FILE in listing.names or has_meta


def wanted_of_funasr(listing: Listing) -> tuple[str, ...]:
    """Return configuration, weights, statistics, tokens and, where there is one, the lexicon of words in pieces.

    Raises:
        CheckpointError: ``configuration.json`` is malformed.
        ModelNotFoundError: one of them is not listed.
    """
    files = _Files(listing)
    needed = [files.name(key, *usual) for key, usual in _NEEDED.items()]
    lexicon = files.find(_LEXICON, LEXICON_FILE)
    return (*listed_of(listing, META_FILE), *needed, *([lexicon] if lexicon else []))


def _load_tokenizer(files: _Files, options: FunasrOptions) -> Tokenizer:
    tokens_path = files.path(_TOKENS, *_NEEDED[_TOKENS])
    unknown = options.tokenizer_conf.get("unk_symbol", "<unk>")
    if unknown != "<unk>":
        raise DataError(f"{tokens_path}: tokenizer_conf.unk_symbol must be <unk>, got {str(unknown)[:60]!r}")
    pieces = [_RENAMED.get(piece, piece) for piece in _read_tokens(tokens_path)]
    if tuple(pieces[:3]) != SPECIALS:
        raise DataError(f"{tokens_path}: must begin with <blank>, <s> and </s>, got {pieces[:3]}")
    lexicon = read_lexicon(files.path(_LEXICON, LEXICON_FILE)) if files.find(_LEXICON, LEXICON_FILE) else {}
    if not lexicon and all(len(piece) == 1 or piece.startswith("<") for piece in pieces):
        return CharTokenizer(pieces, source=str(tokens_path))
    return LexiconTokenizer(pieces, lexicon, source=str(tokens_path))


def _read_tokens(path: Path) -> list[str]:
    try:
        text = path.read_text(encoding="utf-8")
        tokens = json.loads(text) if path.suffix == ".json" else text.removesuffix("\n").split("\n")
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path}: must be a list of tokens ({' '.join(str(error).split())[:200]})") from None
    if not isinstance(tokens, list) or not all(isinstance(token, str) for token in tokens):
        raise DataError(f"{path}: must be a list of strings")
    return [token.rstrip() for token in tokens] if path.suffix != ".json" else tokens


def _card(source: Path, tokenizer: Tokenizer) -> str:
    language = "language: zh\n" if _is_chinese(tokenizer) else ""
    return (
        f"---\n{language}tasks: [asr]\n---\n# {source.resolve().name}\n\n"
        "Converted from a FunASR checkpoint; the licence of the original applies.\n"
    )


def _is_chinese(tokenizer: Tokenizer) -> bool:
    """Tell whether most pieces are ideographs and none is Japanese; a FunASR folder does not name its language."""
    text = "".join(tokenizer.pieces)
    num_ideographs = sum("\u4e00" <= piece <= "\u9fff" for piece in tokenizer.pieces)
    return 2 * num_ideographs > tokenizer.vocab_size and not any("\u3040" <= letter <= "\u30ff" for letter in text)


FUNASR = Family(
    "FunASR", f"{META_FILE}, or {CONFIG_FILE} and {WEIGHTS_FILE}", is_funasr, wanted_of_funasr, convert_funasr
)
