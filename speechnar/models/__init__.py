"""One paper per file: config, module, loss, inference. The table of all models is here."""

from speechnar.models.base import ModelEntry
from speechnar.models.owsm_ctc import OwsmCtc, OwsmCtcConfig

MODELS: dict[str, ModelEntry] = {
    "owsm_ctc": ModelEntry(OwsmCtcConfig, OwsmCtc),
}
