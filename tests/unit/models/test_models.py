"""The table of all models."""

import subprocess
import sys

import pytest

from speechnar.config import Config
from speechnar.models import MODELS


@pytest.mark.parametrize("kind", MODELS)
def test_every_kind_is_where_the_table_says(kind):
    entry = MODELS[kind]
    assert issubclass(entry.config_cls, Config)
    assert entry.config_cls.model_fields["kind"].default == kind
    assert entry.config_cls.__module__ == entry.model_cls.__module__ == entry.module
    assert callable(entry.model_cls.from_config)


def test_the_table_is_sorted():
    assert list(MODELS) == sorted(MODELS)


def test_a_model_is_imported_with_its_kind_alone():
    code = (
        "import sys; from speechnar.models.base import model_entry; model_entry('reta').model_cls;"
        "print(*sorted(name for name in sys.modules if name.startswith('speechnar.models.')))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert "speechnar.models.mt.reta" in loaded
    assert not loaded & {entry.module for kind, entry in MODELS.items() if kind != "reta"}
