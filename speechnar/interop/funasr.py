"""FunASR's models to our model folders: Paraformer offline, with timestamps (BiCIF), with hotwords (SeACo) and
streaming, and SenseVoice.

Nothing of a checkpoint is executed: YAML and JSON are read as data, weights by torch's restricted unpickler, and files
are only looked for inside the folder. The conversion is strict both ways: an option, a tensor or a shape that has no
counterpart here is an error that names it; FunASR itself warns of missing tensors and skips those of another shape.

Source: the model folders of FunASR 1.4.16 (MIT licence).
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from speechnar.audio.cmvn import read_am_mvn
from speechnar.errors import CheckpointError, DataError, ModelNotFoundError
from speechnar.files import regular
from speechnar.interop import sensevoice
from speechnar.interop.family import SAFETENSORS_FILE, Family, FolderListing, Listing, listed_of
from speechnar.interop.files import (
    ConversionReport,
    is_below,
    read_tensors,
    read_yaml,
    save_converted,
    with_weights,
)
from speechnar.interop.funasr_names import SENSEVOICE_NAMES, map_state, module_names
from speechnar.interop.funasr_options import FunasrOptions, parse_options
from speechnar.models.base import ModelConfig, model_entry
from speechnar.text.tokenizer import CharTokenizer, LexiconTokenizer, Tokenizer, read_lexicon

META_FILE, CONFIG_FILE, WEIGHTS_FILE = "configuration.json", "config.yaml", "model.pt"
WRAPPERS = ("state_dict", "model_state_dict", "model")
"""Keys under which FunASR looks for the tensors."""
SPECIALS = ("<blank>", "<sos>", "<eos>")
"""Pieces 0, 1 and 2 in our spelling."""
_CONFIG, _WEIGHTS, _STATISTICS = "config", "init_param", "frontend_conf.cmvn_file"
_TOKENS, _LEXICON, _BPE = "tokenizer_conf.token_list", "tokenizer_conf.seg_dict_file", "tokenizer_conf.bpemodel"
_USUAL = {
    _CONFIG: (CONFIG_FILE,),
    _WEIGHTS: (WEIGHTS_FILE,),
    _STATISTICS: ("am.mvn",),
    _TOKENS: ("tokens.json", "tokens.txt"),
    _LEXICON: ("seg_dict",),
    _BPE: ("chn_jpn_yue_eng_ko_spectok.bpe.model", "bpe.model"),
}
"""The keys under which ``configuration.json`` names the files of a model, and their usual names."""
_RENAMED = {"<s>": "<sos>", "</s>": "<eos>"}


def convert_funasr(source: str | Path, destination: str | Path) -> ConversionReport:
    """Turn a FunASR model folder into a model folder of ours.

    Args:
        source: folder with ``config.yaml``, ``model.pt``, ``am.mvn``, and of Paraformer ``tokens.json`` or
            ``tokens.txt`` and, for words in pieces, ``seg_dict``, of SenseVoice its SentencePiece model;
            ``configuration.json`` may give these other names.
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
    description = _describe(files)
    weights_path = files.path(_WEIGHTS)
    mean, std = read_am_mvn(files.path(_STATISTICS))
    state, keys = map_state(read_tensors(weights_path, WRAPPERS), description.names, source=str(weights_path))
    state |= {"normalizer.mean": torch.from_numpy(mean), "normalizer.std": torch.from_numpy(std)}
    tokenizer = description.tokenizer
    model_cls = model_entry(description.config.kind).model_cls
    model = with_weights(lambda: model_cls.from_config(description.config, tokenizer), state, source=str(weights_path))
    return save_converted(destination, model, tokenizer, keys, card=_card(source, description.languages))


@dataclass(frozen=True)
class _Description:
    """All that a folder says of a model but its weights."""

    config: ModelConfig
    names: Mapping[str, str]
    """Its modules by ours, see `module_names`."""
    tokenizer: Tokenizer
    languages: Sequence[str]
    """As model cards write them."""


def _describe(files: "_Files") -> _Description:
    path = files.path(_CONFIG)
    values = read_yaml(path)
    if values.get("model") == sensevoice.SENSEVOICE:
        return _Description(
            sensevoice.parse_sensevoice(values, str(path)),
            SENSEVOICE_NAMES,
            sensevoice.read_tokenizer(files.path(_BPE)),
            sensevoice.card_languages(),
        )
    options = parse_options(values, str(path))
    config = options.to_config(str(path))
    tokenizer = _load_tokenizer(files, options)
    names = module_names(
        conformer=options.encoder == "ConformerEncoder", transformer=options.decoder == "ParaformerSANDecoder"
    )
    return _Description(config, names, tokenizer, _languages_of(tokenizer))


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

    def name(self, key: str) -> str:
        """Return the name of the file of that key, or the first of the usual names that is listed.

        Raises:
            CheckpointError: it lies outside the folder.
            ModelNotFoundError: there is none.
        """
        found = self.find(key)
        if found is None:
            raise ModelNotFoundError(
                f"{self._listing.source}: need {' or '.join(_USUAL[key])}, which a FunASR model has; found none"
            )
        return found

    def find(self, key: str) -> str | None:
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
        return next(iter(listed_of(self._listing, *_USUAL[key])), None)

    def path(self, key: str) -> Path:
        """Return the file whose name is `name`; errors are the same."""
        return self._listing.path(self.name(key))


def is_funasr(listing: Listing) -> bool:
    """Tell whether files are of a model of FunASR."""
    # Other models on ModelScope have a file configuration.json as well.
    has_meta = META_FILE in listing.names and SAFETENSORS_FILE not in listing.names
    return WEIGHTS_FILE in listing.names or has_meta


def wanted_of_funasr(listing: Listing) -> tuple[str, ...]:
    """Return configuration, weights, statistics and what text is spelled by: tokens, a lexicon, a SentencePiece model.

    Raises:
        CheckpointError: ``configuration.json`` is malformed.
        ModelNotFoundError: one of them is not listed.
    """
    files = _Files(listing)
    needed = [files.name(key) for key in (_CONFIG, _WEIGHTS, _STATISTICS)]
    spelled_by = [name for key in (_TOKENS, _LEXICON, _BPE) if (name := files.find(key)) is not None]
    if files.find(_BPE) is None:
        needed.append(files.name(_TOKENS))
    return tuple(dict.fromkeys([*listed_of(listing, META_FILE), *needed, *spelled_by]))


def _load_tokenizer(files: _Files, options: FunasrOptions) -> Tokenizer:
    tokens_path = files.path(_TOKENS)
    unknown = options.tokenizer_conf.get("unk_symbol", "<unk>")
    if unknown != "<unk>":
        raise DataError(f"{tokens_path}: tokenizer_conf.unk_symbol must be <unk>, got {str(unknown)[:60]!r}")
    pieces = [_RENAMED.get(piece, piece) for piece in _read_tokens(tokens_path)]
    if tuple(pieces[:3]) != SPECIALS:
        raise DataError(f"{tokens_path}: must begin with <blank>, <s> and </s>, got {pieces[:3]}")
    lexicon = read_lexicon(files.path(_LEXICON)) if files.find(_LEXICON) else {}
    if not lexicon and all(_is_ideograph(piece) or piece.startswith("<") for piece in pieces):
        return CharTokenizer(pieces, source=str(tokens_path))
    return LexiconTokenizer(pieces, lexicon, source=str(tokens_path))


def _read_tokens(path: Path) -> list[str]:
    try:
        text = regular(path).read_text(encoding="utf-8")
        tokens = json.loads(text) if path.suffix == ".json" else text.removesuffix("\n").split("\n")
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path}: must be a list of tokens ({' '.join(str(error).split())[:200]})") from None
    if not isinstance(tokens, list) or not all(isinstance(token, str) for token in tokens):
        raise DataError(f"{path}: must be a list of strings")
    return [token.rstrip() for token in tokens] if path.suffix != ".json" else tokens


def _card(source: Path, languages: Sequence[str]) -> str:
    listed = languages[0] if len(languages) == 1 else f"[{', '.join(languages)}]"
    language = f"language: {listed}\n" if languages else ""
    return (
        f"---\n{language}tasks: [asr]\n---\n# {source.resolve().name}\n\n"
        "Converted from a FunASR checkpoint; the licence of the original applies.\n"
    )


def _languages_of(tokenizer: Tokenizer) -> list[str]:
    """Return the language that the writing tells, since a FunASR folder does not name it.

    It is Chinese if most pieces are ideographs and none is Japanese, and English if there are no letters but its own.
    """
    text = "".join(piece for token_id, piece in enumerate(tokenizer.pieces) if not tokenizer.is_special(token_id))
    num_ideographs = sum(map(_is_ideograph, tokenizer.pieces))
    if 2 * num_ideographs > tokenizer.vocab_size:
        return [] if any("\u3040" <= letter <= "\u30ff" for letter in text) else ["zh"]
    letters = [letter for letter in text if letter.isalpha()]
    return ["en"] if letters and all(letter.isascii() for letter in letters) else []


def _is_ideograph(piece: str) -> bool:
    return len(piece) == 1 and "\u4e00" <= piece <= "\u9fff"


FUNASR = Family(
    "FunASR", f"{META_FILE}, or {CONFIG_FILE} and {WEIGHTS_FILE}", is_funasr, wanted_of_funasr, convert_funasr
)
