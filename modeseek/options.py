"""Turn a recipe into command-line flags and back: every number and word of it can be overridden.

The objectives allow a number to be a traced array, which no command line can express. So each value
is mirrored by a plain dataclass with the same field names, whose types come from the defaults.
"""

import dataclasses
from collections.abc import Collection
from typing import Any, Literal, get_args, get_origin

MIRRORS: dict[type, type] = {}


def mirror(value: Any, leave: Collection[str] = ()) -> Any:
    """A plain dataclass instance with the fields of a frozen value, ready for tyro.

    Args:
        value: to be mirrored.
        leave: fields that get no flag.
    """
    cls = type(value)
    fields = []
    for field in dataclasses.fields(cls):
        if field.name in leave:
            continue
        current = getattr(value, field.name)
        plain = mirror(current) if dataclasses.is_dataclass(current) else current
        fields.append((field.name, plain_type(field.type, plain), dataclasses.field(default=plain)))
    made = dataclasses.make_dataclass(cls.__name__, fields, frozen=True)
    made.__doc__ = (cls.__doc__ or cls.__name__).strip().splitlines()[0]
    MIRRORS[made] = cls
    return made()


def plain_type(annotation: Any, value: Any) -> Any:
    """The type a flag of this field has."""
    words = [word for choice in flatten(annotation) for word in literal_words(choice)]
    if dataclasses.is_dataclass(value) or isinstance(value, bool):
        return type(value)
    if isinstance(value, int):
        return float if float in flatten(annotation) else int
    if isinstance(value, float):
        return float | Literal[tuple(words)] if words else float  # pyright: ignore[reportInvalidTypeForm]
    if value is None:
        return float | None
    if isinstance(value, tuple):
        return tuple[tuple(type(item) for item in value)]  # pyright: ignore[reportInvalidTypeArguments]
    return Literal[tuple(words)] if words else str


def flatten(annotation: Any) -> list[Any]:
    """The members of a union, or the type itself."""
    if get_origin(annotation) in (None, Literal, tuple):
        return [annotation]
    return [part for member in get_args(annotation) for part in flatten(member)]


def literal_words(annotation: Any) -> tuple[str, ...]:
    """The words of a Literal; nothing for any other type."""
    if get_origin(annotation) is not Literal:
        return ()
    return tuple(word for word in get_args(annotation) if isinstance(word, str))


def unmirror(value: Any) -> Any:
    """The frozen value a mirror stands for; its own checks run here."""
    if type(value) not in MIRRORS:
        return value
    fields = {
        field.name: unmirror(getattr(value, field.name)) for field in dataclasses.fields(value)
    }
    return MIRRORS[type(value)](**fields)
