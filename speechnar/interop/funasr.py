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
from speechnar.interop.files import ConversionReport, existing, read_tensors, read_yaml
from speechnar.interop.funasr_names import map_state, module_names
from speechnar.interop.funasr_options import FunasrOptions, parse_options
from speechnar.models.asr.paraformer import Paraformer
from speechnar.models.base import save_model
from speechnar.text.tokenizer import CharTokenizer, LexiconTokenizer, Tokenizer, read_lexicon

META_FILE = "configuration.json"
WEIGHTS_FILE = "model.pt"
WRAPPERS = ("state_dict", "model_state_dict", "model")
"""Keys under which FunASR looks for the tensors."""
SPECIALS = ("<blank>", "<sos>", "<eos>")
"""Pieces 0, 1 and 2 in our spelling."""
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
    files = _Files(source)
    config_path, weights_path = files.path("config", "config.yaml"), files.path("init_param", WEIGHTS_FILE)
    options = parse_options(read_yaml(config_path), str(config_path))
    config = options.to_config(str(config_path))
    tokenizer = _load_tokenizer(files, options)
    mean, std = read_am_mvn(files.path("frontend_conf.cmvn_file", "am.mvn"))
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
    """The files of a folder, by the names that ``configuration.json`` or custom gives them."""

    def __init__(self, source: Path) -> None:
        self.source = source
        self._named: Mapping[str, Any] = {}
        if (source / META_FILE).is_file():
            named = read_yaml(source / META_FILE).get("file_path_metas") or {}
            if not isinstance(named, dict):
                raise CheckpointError(f"{source / META_FILE}: file_path_metas must be a mapping")
            self._named = named

    def path(self, key: str, *usual: str) -> Path:
        """Return the file of that key, or the first of the usual names that exists.

        Raises:
            CheckpointError: it lies outside the folder.
            ModelNotFoundError: there is none.
        """
        found = self.find(key, *usual)
        if found is None:
            raise ModelNotFoundError(f"{self.source}: need {' or '.join(usual)}, which a FunASR model has; found none")
        return found

    def find(self, key: str, *usual: str) -> Path | None:
        """Return the same, or None where there is none."""
        value: Any = self._named
        for part in key.split("."):
            value = value.get(part) if isinstance(value, dict) else None
        if value is not None:
            return existing(self.source, value)
        return next((self.source / name for name in usual if (self.source / name).is_file()), None)


def _load_tokenizer(files: _Files, options: FunasrOptions) -> Tokenizer:
    tokens_path = files.path("tokenizer_conf.token_list", "tokens.json", "tokens.txt")
    unknown = options.tokenizer_conf.get("unk_symbol", "<unk>")
    if unknown != "<unk>":
        raise DataError(f"{tokens_path}: tokenizer_conf.unk_symbol must be <unk>, got {str(unknown)[:60]!r}")
    pieces = [_RENAMED.get(piece, piece) for piece in _read_tokens(tokens_path)]
    if tuple(pieces[:3]) != SPECIALS:
        raise DataError(f"{tokens_path}: must begin with <blank>, <s> and </s>, got {pieces[:3]}")
    lexicon_path = files.find("tokenizer_conf.seg_dict_file", "seg_dict")
    lexicon = read_lexicon(lexicon_path) if lexicon_path else {}
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
