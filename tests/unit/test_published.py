"""Names to folders; what is here is not asked for. What is not is tested in interop/test_pull.py."""

import subprocess
import sys
from pathlib import Path

import pytest

from speechnar.errors import ModelNotFoundError
from speechnar.published import obtain_model
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
