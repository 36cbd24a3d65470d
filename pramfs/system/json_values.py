"""Make frozen dataclasses of JSON that another process, perhaps of another version, has written."""

import dataclasses
import json
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

T = TypeVar("T")


def from_json(kind: type[T], text: bytes | str) -> T:
    """Return the dataclass `kind` of a JSON object in `text`.

    Keys that are no fields are ignored, as a newer version may have more. A missing one takes the default
    of its field. Fields may be bool, int, str, a dataclass of such fields, or a tuple of these. Raises
    ValueError, which names the field, if one without a default is missing or has another type.
    """
    try:
        value = json.loads(text)
    except RecursionError as exc:
        raise ValueError("nested too deeply") from exc
    return _dataclass(kind, value, "the whole")


def _dataclass(kind: type[T], value: object, name: str) -> T:
    if not isinstance(value, dict):
        raise ValueError(f"{name} is not an object")
    types = get_type_hints(kind)
    known: dict[str, Any] = {}
    assert dataclasses.is_dataclass(kind)
    for field in dataclasses.fields(kind):
        if field.name in value:
            known[field.name] = _checked(types[field.name], value[field.name], field.name)
        elif field.default is dataclasses.MISSING:
            raise ValueError(f"'{field.name}' is missing")
    return kind(**known)


def _checked(expected: Any, value: object, name: str) -> object:
    """Return the value of a field as its type wants it. Raises ValueError."""
    if isinstance(expected, type) and dataclasses.is_dataclass(expected):
        return _dataclass(expected, value, name)
    if get_origin(expected) is tuple:
        (item, _) = get_args(expected)
        if isinstance(value, list):
            return tuple(_checked(item, one, name) for one in value)
    elif type(value) is expected:
        return value
    raise ValueError(f"'{name}' has another type")
