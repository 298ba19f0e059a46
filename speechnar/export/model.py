"""Any model that can be exported, for this package or for another one."""

from pathlib import Path
from typing import Literal

from speechnar.errors import ConfigError
from speechnar.export.graph import Precision
from speechnar.export.onnx_asr import export_onnx_asr
from speechnar.export.recogniser import export_onnx
from speechnar.export.sherpa import export_sherpa
from speechnar.export.sherpa_online import export_sherpa_online
from speechnar.export.speech import export_speech
from speechnar.export.translator import export_translator
from speechnar.models.asr.paraformer import PARAFORMER
from speechnar.models.base import LoadedModel

Target = Literal["speechnar", "sherpa", "sherpa-online", "onnx-asr"]
TARGETS: tuple[Target, ...] = ("speechnar", "sherpa", "sherpa-online", "onnx-asr")
_OTHERS = {"fretna_ctc": export_translator, "tts": export_speech, "vocos": export_speech}
"""By kind of model; all others are recognisers."""


def export_model(
    loaded: LoadedModel,
    source: Path,
    out: str | Path,
    *,
    target: Target = "speechnar",
    decoder: str | None = None,
    precision: Precision = "fp32",
) -> Path:
    """Write a model as ONNX into the folder ``out``, which is made if absent, and return that folder.

    Args:
        loaded: the model, on the CPU.
        source: its folder, whose card is kept.
        out: the new folder.
        target: who reads it.
        decoder: of a recogniser; None is its default.
        precision: see `speechnar.export.graph.write_graph`.

    Raises:
        ConfigError: the model is not one that is exported, or not for this target, or has no such decoder.
        MissingExtraError: onnx or onnxscript is absent.
    """
    if loaded.kind in _OTHERS:
        if target != "speechnar" or decoder is not None:
            raise ConfigError(
                f"model {loaded.name} of kind {loaded.kind} is no recogniser; leave out target and decoder"
            )
        return _OTHERS[loaded.kind](loaded, source, out, precision=precision)
    if target == "sherpa":
        return export_sherpa(loaded, out, decoder=decoder, precision=precision)
    if target == "sherpa-online":
        if decoder not in (None, PARAFORMER):
            raise ConfigError(f"sherpa-onnx's online reader takes a Paraformer; leave out decoder, got {decoder}")
        return export_sherpa_online(loaded, out, precision=precision)
    if target == "onnx-asr":
        if decoder not in (None, "ctc"):
            raise ConfigError(f"onnx-asr reads CTC alone; leave out decoder, got {decoder}")
        return export_onnx_asr(loaded, out, precision=precision)
    return export_onnx(loaded, source, out, decoder=decoder, precision=precision)
