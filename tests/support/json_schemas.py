"""The JSON Schemas of what `pramfs COMMAND --json` prints, and the check of an output against one."""

import json
from collections.abc import Iterator
from typing import Any

import jsonschema  # type: ignore[import-untyped]
from referencing import Registry, Resource

from tests.support.checkout import CHECKOUT

FOLDER = CHECKOUT / "share/schema"
COMMANDS = ("status", "info", "check", "map", "diff", "dedup", "ls", "snapshots", "restore")


def schema_of(name: str) -> dict[str, Any]:
    """The schema as it ships."""
    return dict(json.loads((FOLDER / f"{name}.json").read_text()))


def conforming(name: str, output: str) -> Any:
    """What the output says. It has the keys of the schema and no others, in the order of the schema."""
    schema = schema_of(name)
    told = json.loads(output)
    # One schema refers to another by its file name.
    others = {
        f"{other}.json": Resource.from_contents(_closed(schema_of(other))) for other in COMMANDS
    }
    registry: Registry[Any] = Registry().with_resources(others.items())
    jsonschema.Draft202012Validator(_closed(schema), registry=registry).validate(told)
    if isinstance(told, dict):
        assert list(told) == [key for key in schema["properties"] if key in told]
    return told


def fields(command: str) -> Iterator[str]:
    """All fields of the schema, as the page calls them: `frames.total`, `nodes[].name`."""
    schema = schema_of(command)
    yield from _fields(schema, schema.get("$defs", {}), "")


def _fields(schema: dict[str, Any], defs: dict[str, Any], prefix: str) -> Iterator[str]:
    if "$ref" in schema:
        schema = defs[schema["$ref"].removeprefix("#/$defs/")]
    for name, below in schema.get("properties", {}).items():
        yield prefix + name
        if name != "mount":  # the page says that it is what status tells
            yield from _fields(below, defs, f"{prefix}{name}.")
            yield from _fields(below.get("items", {}), defs, f"{prefix}{name}[].")


def _closed(schema: Any) -> Any:
    """The schema without room for more: what ships leaves that to later versions."""
    if isinstance(schema, list):
        return [_closed(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    closed = {key: _closed(part) for key, part in schema.items()}
    return closed | ({"additionalProperties": False} if "properties" in schema else {})
