import inspect

import pytest

from speechnar import errors

BUILTINS = {
    "ConfigError": ValueError,
    "ShapeError": ValueError,
    "AudioError": ValueError,
    "DataError": ValueError,
    "ModelNotFoundError": LookupError,
    "CheckpointError": RuntimeError,
    "MissingExtraError": ImportError,
}
"""What a caller who knows nothing of this package may catch."""


@pytest.mark.parametrize("name", BUILTINS)
def test_every_error_is_ours_and_a_builtin(name):
    for caught in (errors.SpeechnarError, BUILTINS[name]):
        with pytest.raises(caught, match=r"^what is wrong$"):
            raise getattr(errors, name)("what is wrong")  # of a lookup, too, whose builtins quote their message


def test_no_error_is_forgotten():
    assert {name for name, _ in inspect.getmembers(errors, inspect.isclass)} == {"SpeechnarError", *BUILTINS}
