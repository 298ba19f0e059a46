import gc
import logging
from collections.abc import Iterator

import pytest

from tests.interpreter import Interpreter


def pytest_collection_finish() -> None:
    """Search what is imported by now, by all tests together, for garbage once, and not whenever a page's job ends."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def logging_as_before() -> Iterator[None]:
    """The command line logs to the standard error of its time, which is closed when its test has ended."""
    logger = logging.getLogger("speechnar")
    before = list(logger.handlers), logger.level, logger.propagate
    yield
    logger.handlers, logger.level, logger.propagate = before


@pytest.fixture(scope="session")
def interpreter() -> Iterator[Interpreter]:
    with Interpreter() as interpreter:
        yield interpreter
