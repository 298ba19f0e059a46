"""Imports point one way, from the web page and the command line down to the errors."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# From the top. A room imports itself and what stands on the lines below it; rooms on one line do not see each other,
# but for models, whose families share `models.base`, and interop, which turns foreign checkpoints into models.
LAYERS: tuple[frozenset[str], ...] = (
    frozenset({"__main__"}),
    frozenset({"cli", "demo"}),
    frozenset({"scale"}),
    frozenset({"evaluation", "export", "serve"}),
    frozenset({"captions", "cascade"}),
    frozenset({"tts"}),
    frozenset({"asr", "mt", "sound", "train"}),
    frozenset({"published"}),
    frozenset({"interop"}),
    frozenset({"models"}),
    frozenset({"data", "decode", "metrics", "nn"}),
    frozenset({"audio", "text"}),
    frozenset({"hub"}),
    frozenset({"store"}),
    frozenset({"config", "extras"}),
    frozenset({"memory", "pickled", "plain_yaml"}),
    frozenset({"files"}),
    frozenset({"errors"}),
)
RANKS = {unit: rank for rank, layer in enumerate(LAYERS) for unit in layer}
# The package itself only names, lazily, what the rooms offer.
PACKAGE = "__init__"


def is_allowed(unit: str, other: str) -> bool:
    if PACKAGE in (unit, other):
        return unit == PACKAGE or RANKS[unit] <= RANKS["cli"]
    return unit == other or RANKS.get(unit, -1) < RANKS.get(other, -1)


def unit_of(module: str) -> str | None:
    """Return what a module belongs to: ``nn`` for ``speechnar.nn.ctc``; None if it is not ours."""
    top, *rest = module.split(".")
    if top == "demo":
        return "demo"
    if top != "speechnar":
        return None
    return rest[0] if rest else "__init__"


def imported_modules(tree: ast.AST, package: str) -> Iterator[tuple[int, str]]:
    """Yield the line and the full name of every import: ``speechnar.nn`` for ``from speechnar import nn``."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parents = package.split(".")
            base = parents[: len(parents) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            if module != "speechnar":
                yield node.lineno, module
                continue
            for alias in node.names:
                yield node.lineno, f"speechnar.{alias.name}" if alias.name in RANKS else "speechnar"


def violations(source: str, module: str, *, is_package: bool = False) -> list[str]:
    """Return the arrows of a module's source that point up or sideways."""
    unit = unit_of(module)
    package = module if is_package else module.rpartition(".")[0]
    found = []
    for line, name in imported_modules(ast.parse(source), package):
        other = unit_of(name)
        if unit is not None and other is not None and not is_allowed(unit, other):
            found.append(f"{module}:{line} imports {name}: {unit} -> {other}")
    return found


def our_modules() -> list[tuple[Path, str, bool]]:
    found = []
    for path in sorted([*ROOT.glob("speechnar/**/*.py"), *ROOT.glob("demo/**/*.py")]):
        parts = path.relative_to(ROOT).with_suffix("").parts
        is_package = parts[-1] == "__init__"
        found.append((path, ".".join(parts[:-1] if is_package else parts), is_package))
    return found


def test_imports_point_one_way():
    modules = our_modules()
    assert len(modules) > 40
    found = [
        fault
        for path, module, is_package in modules
        for fault in violations(path.read_text(encoding="utf-8"), module, is_package=is_package)
    ]
    assert not found, "\n".join(found)


def test_every_module_has_a_layer():
    strangers = [module for _, module, _ in our_modules() if unit_of(module) not in {*RANKS, PACKAGE}]
    assert not strangers


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("speechnar.errors", "from speechnar.config import Config"),
        ("speechnar.audio.io", "from speechnar.text.normalize import NORMALIZERS"),
        ("speechnar.text.tokenizer", "import speechnar.data.batch"),
        ("speechnar.nn.ctc", "def f():\n    from speechnar.decode.ctc import greedy"),
        ("speechnar.data.batch", "import numpy, speechnar.nn.lengths as lengths"),
        ("speechnar.decode.ctc", "from speechnar import models"),
        ("speechnar.models.base", "from ..train import loop"),
        ("speechnar.models.base", "from .. import asr"),
        ("speechnar.train.loop", "from speechnar import Transcriber"),
        ("speechnar.hub", "if TYPE_CHECKING:\n    from speechnar.cli.main import main"),
        ("speechnar.cli.main", "import demo.app"),
        ("speechnar.asr.stream", "from speechnar.mt.stream import TranslationStream"),
        ("speechnar.tts.voice", "from speechnar.evaluation import tts"),
        ("speechnar.asr.clips", "from speechnar import Transcriber"),
        ("speechnar.nn.ctc", "from speechnar.newcomer import something"),
    ],
)
def test_the_checker_sees_wrong_arrows(module, source):
    assert len(violations(source, module)) == 1


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("demo.app", "from speechnar import Transcriber\nfrom speechnar.text.languages import name_of"),
        ("speechnar.__main__", "from speechnar.cli.main import main"),
        (
            "speechnar.asr.recordings",
            "from speechnar.audio.blocks import cut\nfrom speechnar.decode.vad import detect_speech",
        ),
        ("speechnar.train.loop", "from speechnar.models.base import Trainable\nfrom .feed import Batch"),
        ("speechnar.models.base", "from speechnar.models import MODELS\nimport torch"),
        ("speechnar.config", "from speechnar.errors import ConfigError"),
    ],
)
def test_the_checker_lets_right_arrows_pass(module, source):
    assert violations(source, module) == []


def test_relative_imports_of_a_package_start_at_itself():
    assert violations("from .espnet import convert_espnet", "speechnar.interop", is_package=True) == []
    assert violations("from ..train import loop", "speechnar.interop", is_package=True)


@pytest.mark.parametrize("module", ["cli.main", "evaluation.scores", "data.describe", "data.build_tokenizer"])
def test_what_runs_no_model_starts_without_torch(module: str):
    """Recipes start these again and again, and importing torch takes longer than their work."""
    code = f"import sys, speechnar.{module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# A package's table of names has no test of its own: importing what it names is one.
NOT_TESTED = frozenset({"__init__.py", "__main__.py"})


def mirror_of(module: Path) -> Path:
    """Return where the tests of ``speechnar/<module>`` stand: ``tests/unit/nn/test_ctc.py`` for ``nn/ctc.py``."""
    return ROOT / "tests/unit" / module.with_name(f"test_{module.name}")


def test_every_module_has_its_tests():
    modules = [path.relative_to(ROOT / "speechnar") for path in sorted(ROOT.glob("speechnar/**/*.py"))]
    missing = [str(path) for path in modules if path.name not in NOT_TESTED and not mirror_of(path).is_file()]
    assert not missing, f"tests are missing of {', '.join(missing)}"
