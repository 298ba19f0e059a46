"""Pack a trained model for shipping, its weights in half precision and with a card (``speechnar pack``)."""

import re
from collections.abc import Collection
from pathlib import Path

import torch

from speechnar.errors import CheckpointError, ConfigError
from speechnar.models.asr.joint import Joint
from speechnar.models.base import CARD_FILE, load_model, save_model
from speechnar.text.words import copy_words

BOUND = "---\n"
"""Of front matter."""
DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32}


def pack_model(
    source: str | Path,
    dest: str | Path,
    *,
    card: str,
    dtype: str = "float16",
    decoders: Collection[str] | None = None,
) -> None:
    """Write the model folder ``source`` as ``dest`` with parameters stored as ``dtype``; an old ``dest`` is replaced.

    A model of several ``decoders`` keeps those named, and CTC in any case; None: all.

    Of the front matter of ``source``, what the ``card`` does not say itself is added to it: a recipe's README does not
    know from which language to which a model translates.

    Raises:
        ModelNotFoundError: ``source`` is no model folder.
        CheckpointError: it is damaged, or a weight is too large for ``dtype``.
        ConfigError: it has no such decoder, or no choice of decoders.
    """
    loaded = load_model(source)
    model = loaded.model
    if decoders is not None:
        if not isinstance(model, Joint):
            raise ConfigError(f"{source}: kind {loaded.kind} has no choice of decoders")
        model = model.with_decoders(decoders, loaded.tokenizer)
    for name, weight in model.named_parameters():
        if not weight.to(DTYPES[dtype]).isfinite().all():
            raise CheckpointError(f"{source}: {name} holds values beyond the range of {dtype}; choose another")
    said = _front_matter(card)
    path = Path(source) / CARD_FILE
    old = _front_matter(path.read_text(encoding="utf-8") if path.is_file() else "")
    more = "".join(line for key, line in old.items() if key not in said)
    if more:
        card = BOUND + more + (card.removeprefix(BOUND) if said else BOUND + card)
    save_model(dest, model, loaded.tokenizer, card=card, dtype=DTYPES[dtype])
    copy_words(Path(source), Path(dest))


def _front_matter(card: str) -> dict[str, str]:
    """Return the lines of each key of a card's front matter."""
    found = re.match(r"---\n(.*?\n)---\n", card, flags=re.DOTALL)
    lines: dict[str, str] = {}
    for line in found[1].splitlines(keepends=True) if found else ():
        key = line.partition(":")[0] if not line[0].isspace() else next(reversed(lines), "")
        lines[key] = lines.get(key, "") + line
    return lines
