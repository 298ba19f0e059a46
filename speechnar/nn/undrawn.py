"""Modules built without drawing random weights, for those who read all weights from a file a moment later."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from torch import Tensor
from torch.nn import init
from torch.overrides import TorchFunctionMode

SKIPPED = frozenset({init.normal_, init.uniform_, init.kaiming_uniform_})
"""Fill a tensor that is given by name, and ask whoever overrides functions first."""
DRAWS = frozenset({Tensor.normal_, Tensor.uniform_})
"""What other initialisers are made of."""


class Undrawn(TorchFunctionMode):
    """A context in which tensors that would be filled with random numbers keep whatever memory held, or one number.

    That is the mean of a normal distribution, and the lower bound of a uniform one: truncated ones draw until numbers
    lie within their bounds. Tensors made by a generator of their own are as ever.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Call ``func``, unless it draws."""
        given = kwargs or {}
        if given.get("generator") is None:
            if func in SKIPPED:
                return given["tensor"]
            if func in DRAWS:
                return args[0].fill_(args[1] if len(args) > 1 else given.get("mean", 0.0))
        return func(*args, **given)
