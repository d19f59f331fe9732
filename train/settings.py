"""From a mapping out of a TOML file to a frozen dataclass, with every key and type checked."""

from __future__ import annotations

import dataclasses
import difflib
import sys
import types
import typing
from collections.abc import Iterable, Mapping
from typing import Any, Literal, TypeVar

from edgekit.runtime.errors import RecipeError

T = TypeVar("T")

_SCALARS = {int: "an integer", float: "a finite number", bool: "true or false", str: "a string"}


def from_mapping(cls: type[T], mapping: Mapping[str, Any], *, where: str) -> T:
    """Build the dataclass `cls` from the keys and values of `mapping`.

    Understood annotations: int, float (an integer will do), bool, str, Literal, tuple[X, ...] and
    tuple[X, Y] (from a list), Mapping and dict (taken as they are), another dataclass (from a
    table), Any, None, and unions of these, the first that fits being taken. A RecipeError that the
    dataclass raises itself is passed on with `where` in front.

    Args:
        cls: A dataclass; fields without a default are required.
        mapping: What the table holds.
        where: Dotted key of the table, "" for the top of the file.

    Raises:
        RecipeError: a key is unknown or missing, or a value is of the wrong type; the message has
            the dotted key, what was expected, and for an unknown key those that there are.
    """
    if not isinstance(mapping, Mapping):
        raise RecipeError(f"{where}: expected a table, got {_shown(mapping)}")
    hints = typing.get_type_hints(cls)
    fields = [f for f in dataclasses.fields(cls) if f.init]  # type: ignore[arg-type]
    names = [field.name for field in fields]
    for key in mapping:
        if key not in names:
            raise RecipeError(unknown_key(_dotted(where, key), str(key), names))
    for field in fields:
        if field.name not in mapping and _is_required(field):
            expected = _describe(hints[field.name])
            raise RecipeError(
                f"{_dotted(where, field.name)}: this key is missing; it takes {expected}"
            )
    values = {
        key: _convert(hints[key], value, _dotted(where, key)) for key, value in mapping.items()
    }
    try:
        return cls(**values)
    except RecipeError as error:
        raise RecipeError(f"{where}: {error}" if where else str(error)) from error


def unknown_key(dotted: str, key: str, known: Iterable[str]) -> str:
    """The message about a key or name that does not exist: the closest one, and all there are."""
    names = list(known)
    close = difflib.get_close_matches(key, names, n=1)
    hint = f"did you mean {close[0]}? " if close else ""
    return f"{dotted}: unknown; {hint}known: {', '.join(names) or 'none'}"


def _dotted(where: str, key: object) -> str:
    return f"{where}.{key}" if where else str(key)


def _is_required(field: dataclasses.Field[Any]) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def _convert(hint: Any, value: Any, where: str) -> Any:
    """`value` as the type that `hint` says, or RecipeError."""
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        return _convert_union(hint, value, where)
    if origin is tuple and isinstance(value, (list, tuple)):
        return _convert_items(hint, value, where)
    if dataclasses.is_dataclass(hint) and isinstance(hint, type) and isinstance(value, Mapping):
        return from_mapping(hint, value, where=where)
    if _is_scalar_of(hint, value):
        return float(value) if hint is float else value
    raise RecipeError(f"{where}: expected {_describe(hint)}, got {_shown(value)}")


def _convert_union(hint: Any, value: Any, where: str) -> Any:
    arms = [arm for arm in typing.get_args(hint) if _may_hold(arm, value)]
    if not arms:
        raise RecipeError(f"{where}: expected {_describe(hint)}, got {_shown(value)}")
    for arm in arms[:-1]:
        try:
            return _convert(arm, value, where)
        except RecipeError:
            continue
    return _convert(arms[-1], value, where)


def _may_hold(hint: Any, value: Any) -> bool:
    """Whether the outer type fits, so that an error inside is worth telling."""
    if typing.get_origin(hint) is tuple:
        return isinstance(value, (list, tuple))
    if dataclasses.is_dataclass(hint):
        return isinstance(value, Mapping)
    return _is_scalar_of(hint, value)


def _convert_items(hint: Any, value: list[Any] | tuple[Any, ...], where: str) -> tuple[Any, ...]:
    args = typing.get_args(hint)
    if len(args) == 2 and args[1] is Ellipsis:
        args = (args[0],) * len(value)
    if len(args) != len(value):
        raise RecipeError(f"{where}: expected {_describe(hint)}, got {_shown(value)}")
    return tuple(
        _convert(arg, item, f"{where}[{index}]")
        for index, (arg, item) in enumerate(zip(args, value, strict=True))
    )


def _is_scalar_of(hint: Any, value: Any) -> bool:
    """Whether `value` is of a type that needs no conversion of parts."""
    if hint is Any:
        return True
    if hint is type(None):
        return value is None
    origin = typing.get_origin(hint) or hint
    if origin is Literal:
        return any(value == item and type(value) is type(item) for item in typing.get_args(hint))
    if origin in (dict, Mapping):
        return isinstance(value, Mapping)
    if hint is float:
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
        return is_number and abs(value) <= sys.float_info.max
    return hint in _SCALARS and type(value) is hint


def _describe(hint: Any) -> str:
    if hint in _SCALARS:
        return _SCALARS[hint]
    if hint is Any:
        return "any value"
    if hint is type(None):
        return "nothing"
    args = typing.get_args(hint)
    origin = typing.get_origin(hint)
    if origin is Literal:
        return "one of " + ", ".join(repr(arg) for arg in args)
    if origin is tuple:
        return _describe_tuple(args)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(_describe(arg) for arg in args if arg is not type(None))
    return "a table"


def _describe_tuple(args: tuple[Any, ...]) -> str:
    if len(args) == 2 and args[1] is Ellipsis:
        return f"a list, each {_describe(args[0])}"
    return f"a list of {len(args)}: " + ", ".join(_describe(arg) for arg in args)


def _shown(value: object) -> str:
    text = repr(list(value)) if isinstance(value, tuple) else repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
