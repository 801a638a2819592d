"""A reward in one's own Python: any function from prompts and responses to numbers.

What a function returns is held to the contract before it reaches an objective, because a NaN or a
number too few would otherwise show much later, as a policy that has learned nothing or the wrong
thing.

Key to the axes: N responses of a prompt.
"""

import importlib
import inspect
import math
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any

from llm.rewards.contract import PerResponse, Written, regrouped


@dataclass(frozen=True)
class Function:
    """A reward that a function of (prompts, responses) computes, all of them at once.

    Attributes:
        name: what it was asked for as.
        function: takes two lists of texts of one length, returns as many numbers.
    """

    name: str
    function: Callable[[list[str], list[str]], Any]

    def __call__(self, groups: Sequence[Sequence[Written]]) -> list[PerResponse]:
        """What the function returns, checked.

        Raises:
            ValueError: if it is not one finite number for every response.
        """
        flat = [written for group in groups for written in group]
        found = self.function([w.prompt for w in flat], [w.response for w in flat])
        return regrouped(checked(self.name, found, flat), groups)


def checked(name: str, found: Any, flat: Sequence[Written]) -> list[float]:
    """One finite number for every response, or a ValueError that names the function."""
    if hasattr(found, "tolist"):  # an array of whatever library
        found = found.tolist()
    if not isinstance(found, list | tuple):
        raise ValueError(
            f"The reward {name} returned a {type(found).__name__}; it must return a list with one "
            "number for every response."
        )
    if len(found) != len(flat):
        raise ValueError(
            f"The reward {name} returned {len(found)} numbers for {len(flat)} responses; it must "
            "return one for each, in their order."
        )
    for value, written in zip(found, flat, strict=True):
        if not isinstance(value, Real) or not math.isfinite(value):
            raise ValueError(
                f"The reward {name} returned {value!r} for the response "
                f"{shortened(written.response)}; it must return a finite number for every text, "
                "the empty one too."
            )
    return [float(value) for value in found]


def shortened(text: str, most: int = 60) -> str:
    """A text as it is shown in a message."""
    return repr(text if len(text) <= most else text[:most] + "...")


def python(name: str, place: str) -> Function:
    """Find a function by where it stands.

    Args:
        name: of the reward.
        place: ``package.module:function``; modules of the working directory are found too.

    Raises:
        ValueError: if there is no such module or function, or if it does not take two lists.
    """
    module, _, attribute = place.partition(":")
    if not module or not attribute:
        raise ValueError(
            f"The reward {name} names no function: write python:package.module:function."
        )
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())  # last, so that no module of a package is ever hidden
    try:
        found = importlib.import_module(module)
    except Exception as error:  # whatever the module itself raises
        raise ValueError(
            f"The module {module} of the reward {name} cannot be imported "
            f"({type(error).__name__}: {error}). Check its name, and run from the folder it is in."
        ) from error
    function = getattr(found, attribute, None)
    if not callable(function):
        public = [
            key for key, value in vars(found).items() if callable(value) and not key.startswith("_")
        ]
        there = f"; it has {', '.join(public)}" if public else ""
        raise ValueError(f"The module {module} has no function {attribute}{there}.")
    try:
        inspect.signature(function).bind([], [])
    except TypeError as error:
        raise ValueError(
            f"The reward {name} cannot be called as {attribute}(prompts, responses): {error}."
        ) from None
    except ValueError:
        pass  # a built-in function does not say what it takes
    return Function(name, function)
