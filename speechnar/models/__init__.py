"""One paper per file: config, module, loss, inference. The table of all models is here."""

from speechnar.models.base import ModelEntry
from speechnar.models.joint import Joint, JointConfig
from speechnar.models.owsm_ctc import OwsmCtc, OwsmCtcConfig

MODELS: dict[str, ModelEntry] = {
    "joint": ModelEntry(JointConfig, Joint),
    "owsm_ctc": ModelEntry(OwsmCtcConfig, OwsmCtc),
}
