"""JSON from a stranger: objects whose values are checked as they are taken."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgekit.runtime.errors import InputError

LARGEST_FILE_BYTES = 256_000_000
# Beyond this no figure of a model lies, and sums of such numbers are still finite.
LARGEST_NUMBER = 1e300


class JsonObject:
    """An object of a JSON file, and where it stands, for messages.

    Every method raises InputError, with the file and the key, where a value is not what it must be.
    """

    def __init__(self, value: Any, where: str) -> None:
        if not isinstance(value, dict):
            raise InputError(f"{where} is {_kind(value)}, not an object; write the file again")
        self.value: Mapping[str, Any] = value
        self.where = where

    def has(self, key: str) -> bool:
        """Whether there is a value that is not null."""
        return self.value.get(key) is not None

    def text(self, key: str) -> str:
        """A string, without control characters."""
        return printable(self._get(key, str, "a string"))

    def texts(self, key: str) -> tuple[str, ...]:
        """A list of strings, without control characters."""
        found = self._get(key, list, "a list")
        if not all(isinstance(one, str) for one in found):
            raise self._wrong(key, "a list of strings")
        return tuple(printable(one) for one in found)

    def number(self, key: str, *, least: float | None = 0) -> float:
        """A finite number."""
        found = self._get(key, (int, float), "a number")
        if isinstance(found, bool) or not abs(found) <= LARGEST_NUMBER:
            raise self._wrong(key, "a finite number")
        if least is not None and found < least:
            raise self._wrong(key, f"at least {least:g}")
        return float(found)

    def count(self, key: str) -> int:
        """A whole number, 0 or more."""
        found = self._get(key, int, "a whole number")
        if isinstance(found, bool) or not 0 <= found <= LARGEST_NUMBER:
            raise self._wrong(key, "a whole number, 0 or more")
        return int(found)

    def numbers(self, key: str) -> tuple[float, ...]:
        """A list of finite numbers."""
        found = self._get(key, list, "a list")
        for one in found:
            if isinstance(one, bool) or not isinstance(one, int | float):
                raise self._wrong(key, "a list of numbers")
            if not abs(one) <= LARGEST_NUMBER:
                raise self._wrong(key, "a list of finite numbers")
        return tuple(float(one) for one in found)

    def object(self, key: str) -> JsonObject:
        """An object."""
        return JsonObject(self._get(key, dict, "an object"), f"{self.where}.{key}")

    def objects(self, key: str) -> list[JsonObject]:
        """A list of objects."""
        found = self._get(key, list, "a list")
        return [JsonObject(one, f"{self.where}.{key}[{i}]") for i, one in enumerate(found)]

    def list(self, key: str) -> list[Any]:
        """A list of anything."""
        found: list[Any] = self._get(key, list, "a list")
        return found

    def _get(self, key: str, types: type | tuple[type, ...], name: str) -> Any:
        if key not in self.value:
            raise InputError(f"{self.where}.{key} is missing; write the file again")
        if not isinstance(self.value[key], types):
            raise self._wrong(key, name)
        return self.value[key]

    def _wrong(self, key: str, wanted: str) -> InputError:
        found = _kind(self.value[key])
        return InputError(f"{self.where}.{key} must be {wanted}, not {found}; write the file again")


def read_json(path: Path, what: str) -> JsonObject:
    """Read a file that holds one object.

    Args:
        path: The file.
        what: What it should be, for messages: "a results file of edgekit bench --format json".

    Raises:
        InputError: it is missing, too large, no JSON, or no object.
    """
    if not path.exists():
        raise InputError(f"{path}: no such file; give {what}")
    if not path.is_file():
        kind = "a folder" if path.is_dir() else "no regular file"
        raise InputError(f"{path}: is {kind}; give {what}")
    if path.stat().st_size > LARGEST_FILE_BYTES:
        raise InputError(f"{path}: {path.stat().st_size:,} bytes are too many for {what}")
    try:
        value = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise InputError(
            f"{path}: not JSON ({' '.join(str(error).split())}); give {what}"
        ) from error
    if not isinstance(value, dict):
        raise InputError(f"{path}: holds {_kind(value)}, not an object; give {what}")
    return JsonObject(value, f"{path}: results")


def printable(text: str) -> str:
    """The text with what has no glyph, and what would end a line, marked as such."""
    return "".join(one if one.isprintable() else "\N{REPLACEMENT CHARACTER}" for one in text)


def _kind(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return f"{value:g}" if abs(value) <= LARGEST_NUMBER else "a number out of range"
    names: dict[type, str] = {dict: "an object", list: "a list", str: "a string"}
    return names.get(type(value), "null")
