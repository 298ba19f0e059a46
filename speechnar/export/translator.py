"""FReTNA's one pass as one graph from source tokens to the scores of all slots' names.

Shapes: B sentences, S source tokens, T slots, V vocabulary.
"""

import shutil
from pathlib import Path

import torch
from torch import Tensor, nn

from speechnar.asr.onnx import GRAPH_FILE
from speechnar.errors import ConfigError
from speechnar.export.graph import Input, Precision, write_graph
from speechnar.models.base import CARD_FILE, LoadedModel
from speechnar.models.mt.fretna_ctc import FretnaCtc


def export_translator(loaded: LoadedModel, source: Path, out: str | Path, *, precision: Precision = "fp32") -> Path:
    """Write a model of kind fretna_ctc as a folder with a graph, its tokenizer and its card, and return that folder.

    The graph maps ``src_tokens`` (B, S), with the end where a source is complete, and ``src_lens`` (B,) to
    ``log_probs`` (B, T, V) and ``lens`` (B,). The best name of each slot, repeats merged and blanks dropped, is the
    translation (`FretnaCtc.merge`).

    Raises:
        ConfigError: the model is of another kind.
        MissingExtraError: onnx or onnxscript is absent.
    """
    model = loaded.model
    if not isinstance(model, FretnaCtc):
        raise ConfigError(
            f"of models that translate texts only those of kind fretna_ctc are exported, got {loaded.kind}"
        )
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    tokens = torch.arange(15).view(3, 5) % loaded.tokenizer.vocab_size
    write_graph(
        _OnePass(model),
        {"src_tokens": Input(tokens, (0, 1)), "src_lens": Input(torch.tensor([5, 3, 2]), (0,))},
        ("log_probs", "lens"),
        out / GRAPH_FILE,
        metadata={"source": loaded.kind, "blank_id": model.blank_id, "precision": precision},
        precision=precision,
    )
    loaded.tokenizer.save(out)
    if (source / CARD_FILE).is_file():
        shutil.copy(source / CARD_FILE, out / CARD_FILE)
    return out


class _OnePass(nn.Module):
    def __init__(self, model: FretnaCtc) -> None:
        super().__init__()
        self.model = model

    def forward(self, src_tokens: Tensor, src_lens: Tensor) -> tuple[Tensor, Tensor]:
        return self.model.score_names(src_tokens, src_lens)
