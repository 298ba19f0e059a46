"""Foreign checkpoints to our model folders."""

from speechnar.models.interop.cassnat import convert_cassnat
from speechnar.models.interop.espnet import ConversionReport, convert_espnet

__all__ = ["ConversionReport", "convert_cassnat", "convert_espnet"]
