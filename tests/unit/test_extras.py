"""What an installation may lack: one line that says what to install, and nothing else that stops working."""

import sys

import pytest

from speechnar.errors import MissingExtraError, SpeechnarError
from speechnar.extras import needs, package_folder, require


def test_an_absent_package_is_named_with_what_brings_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "accelerate", None)
    with pytest.raises(MissingExtraError) as caught, needs("train"):
        import accelerate  # noqa: F401
    assert "pip install 'speechnar[train]'" in str(caught.value) and "accelerate" in str(caught.value)
    assert isinstance(caught.value, ImportError) and isinstance(caught.value, SpeechnarError)


@pytest.mark.parametrize(
    "fault", ["OSError('libtorch.so: undefined symbol\\nand much more')", "RuntimeError()", "AttributeError('np.bool')"]
)
def test_whatever_a_broken_package_raises_is_one_line(tmp_path, monkeypatch, fault):
    (tmp_path / "broken_package.py").write_text(f"raise {fault}")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(MissingExtraError) as caught, needs("eval"):
        import broken_package  # noqa: F401
    assert "\n" not in str(caught.value) and str(caught.value).endswith(")") and "()" not in str(caught.value)


def test_what_imports_is_left_alone():
    with needs("eval"):
        import json
    assert json.loads("1") == 1


def test_what_is_needed_late_is_missed_at_once(monkeypatch):
    require("eval", "json", "json.decoder")
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'speechnar\[eval\]' .*matplotlib\.figure"):
        require("eval", "json", "matplotlib.figure")


def test_the_data_of_a_package_is_found_without_running_it(tmp_path, monkeypatch):
    (tmp_path / "only_data").mkdir()
    (tmp_path / "only_data" / "__init__.py").write_text("raise RuntimeError")
    monkeypatch.syspath_prepend(tmp_path)
    assert package_folder("only_data") == tmp_path / "only_data"
    with pytest.raises(MissingExtraError, match="pip install --no-deps no-such-package"):
        package_folder("no_such_package")
    monkeypatch.setitem(sys.modules, "only_data", None)
    with pytest.raises(MissingExtraError, match="only-data"):
        package_folder("only_data")
