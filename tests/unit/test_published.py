"""Names to folders, and which are known; what is not here is tested in interop/test_pull.py."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from speechnar.cli.asr import MODELS_BY_NAME
from speechnar.errors import ModelNotFoundError
from speechnar.interop import FAMILIES
from speechnar.models import MODELS
from speechnar.published import obtain_model, published_models
from speechnar.store import Address
from tests.unit.tiny import save_tiny_model


def test_folders_are_themselves(tmp_path):
    folder = save_tiny_model(tmp_path / "tiny")
    assert obtain_model(folder) == obtain_model(str(folder)) == folder
    with pytest.raises(ModelNotFoundError, match="is no folder"):
        obtain_model(tmp_path / "none")


def test_models_that_are_here_are_found_without_what_converts():
    code = "import sys, speechnar.published as p; p.obtain_model('joint-asr'); sys.exit('torch' in sys.modules)"
    root = Path(__file__).parents[2]
    assert subprocess.run([sys.executable, "-c", code], check=False, cwd=root).returncode == 0


def test_what_is_published_is_known_with_its_sources():
    models = published_models()
    assert len({model.name for model in models}) == len(models) > 10
    assert {model.family for model in models} <= {family.name for family in FAMILIES}
    assert {model.kind for model in models} <= MODELS.keys()
    for model in models:
        assert bool(model.error) == bool(model.error_source), "no figure without a source"
        assert model.checked_with in ("random weights", "real weights")
        assert re.fullmatch(r"[\d.]+ [MB]", model.size)
        assert Address.parse(model.name)
    recommended = {use for model in models for use in model.recommended_for.split(", ") if use}
    assert recommended == {"English", "Chinese", "many languages", "speech translation"}
    for model in models:
        if model.recommended_for:
            assert model.recommended_for in MODELS_BY_NAME and f"{model.name} ({model.size}" in MODELS_BY_NAME
