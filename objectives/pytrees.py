"""Frozen dataclasses that JAX can look inside: numbers are leaves, words are structure.

An objective is a value such as ``DPO(beta=0.1, pairs="all")``. To sweep over ``beta`` with one
compilation, JAX must be allowed to trace the number and must treat the word as a part of the
program. One decorator makes that split for every value of the project.
"""

import dataclasses
import inspect
from typing import Any, TypeVar, dataclass_transform

import jax

T = TypeVar("T")


def is_structure(value: Any) -> bool:
    """Whether a value belongs to the program (a word, a switch, a function), not to the data."""
    if isinstance(value, tuple) and not hasattr(value, "_fields"):
        return any(is_structure(item) for item in value)
    return isinstance(value, (str, bool)) or inspect.isroutine(value)


def structure(default: Any = dataclasses.MISSING) -> Any:
    """A field that is part of the program whatever it holds: a count that sets a shape, say."""
    return dataclasses.field(default=default, metadata={"structure": True})


@dataclass_transform(frozen_default=True, field_specifiers=(structure, dataclasses.field))
def pytree(cls: type[T]) -> type[T]:
    """Make a class a frozen dataclass and a JAX pytree.

    Fields that hold words, switches or functions, and those declared with ``structure()``, are
    static; every other field is a subtree.
    Rebuilding a value from its leaves skips ``__post_init__``, because the leaves are then tracers
    or whatever else a tree transformation puts in their place.
    """
    data = dataclasses.dataclass(frozen=True)(cls)
    fields = dataclasses.fields(data)  # pyright: ignore[reportArgumentType]
    names = tuple(field.name for field in fields)
    always = {field.name for field in fields if field.metadata.get("structure")}

    def flatten_with_keys(self: Any) -> tuple[list[tuple[Any, Any]], Any]:
        values = {name: getattr(self, name) for name in names}
        static = tuple(
            (name, value) for name, value in values.items() if name in always or is_structure(value)
        )
        words = {name for name, _ in static}
        leaves = [
            (jax.tree_util.GetAttrKey(name), values[name]) for name in names if name not in words
        ]
        return leaves, static

    def flatten(self: Any) -> tuple[list[Any], Any]:
        leaves, static = flatten_with_keys(self)
        return [value for _, value in leaves], static

    def unflatten(static: Any, children: Any) -> Any:
        self = object.__new__(data)
        words = dict(static)
        rest = iter(children)
        for name in names:
            object.__setattr__(self, name, words[name] if name in words else next(rest))
        return self

    jax.tree_util.register_pytree_with_keys(data, flatten_with_keys, unflatten, flatten)
    return data
