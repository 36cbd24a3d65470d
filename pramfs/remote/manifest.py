"""The file that makes a stream of its pieces, as docs/remote.md has it, and the names of both.

Whoever writes to the place may have written it, so everything in it is checked.
"""

import hashlib
import json
import re
import time
from dataclasses import asdict, dataclass
from typing import Any

from pramfs.stream.format import IDENTITY_BYTES, NAME_BYTES

PIECE_BYTES = 8 << 20
_PIECE_BYTES_MAX = 64 << 20
_FORMAT = "pramfs stream in pieces"
_VERSION = 1
_SUFFIX = ".json"
_ID = re.compile(r"\d{8}T\d{6}Z-[0-9a-f]{8}")
_NUMBER = re.compile(r"\d{8}")
_DIGEST_BYTES = 16
_NUMBER_MAX = 1 << 62


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """A stream that a place has."""

    id: str
    name: str  # of the tree at the sender
    identity: str  # of the tree, hexadecimal
    entries: int  # pages of all its files
    pages: int  # that are in the stream
    base: str  # the id of the stream that it was built on, "" if it is complete
    base_name: str
    base_identity: str
    base_entries: int
    compressed: bool
    sent_ns: int  # when sending ended, since the epoch
    sent_by: str  # program and version
    size: int  # bytes of all pieces
    piece_bytes: int  # of all pieces but the last
    pieces: tuple[str, ...]  # their digests


def new_id(random: bytes) -> str:
    """Return the id of a stream that is sent now."""
    return time.strftime("%Y%m%dT%H%M%SZ", time.gmtime()) + "-" + random[:4].hex()


def is_id(text: str) -> bool:
    """Return whether a text is the id of a stream."""
    return _ID.fullmatch(text) is not None


def manifest_name(stream: str) -> str:
    """Return the name of the manifest of a stream."""
    return stream + _SUFFIX


def id_of(name: str) -> str | None:
    """Return the id of the stream whose manifest has that name, None for another file."""
    stream = name.removesuffix(_SUFFIX)
    return stream if name.endswith(_SUFFIX) and is_id(stream) else None


def place_of(path: str) -> str | None:
    """Return the directory where a stream is, if `path` is named as its folder, manifest or a piece."""
    parts = path.rstrip("/").split("/")
    if len(parts) > 1 and is_id(parts[-2]) and _NUMBER.fullmatch(parts[-1]):
        parts.pop()
    elif not is_id(parts[-1]) and id_of(parts[-1]) is None:
        return None
    return "/".join(parts[:-1]) or path[: len(path) - len(path.lstrip("/"))] or "."


def piece_name(stream: str, number: int) -> str:
    """Return the name of a piece of a stream."""
    return f"{stream}/{number:08}"


def digest_of(piece: bytes | memoryview) -> str:
    """Return the digest of a piece."""
    return hashlib.blake2b(piece, digest_size=_DIGEST_BYTES).hexdigest()


def encode(manifest: Manifest) -> bytes:
    """Return the contents of the file."""
    fields: dict[str, Any] = {"format": _FORMAT, "version": _VERSION, **asdict(manifest)}
    return json.dumps(fields | {"digest": _digest(fields)}, indent=1).encode()


def decode(data: bytes, stream: str) -> Manifest:
    """Return the manifest of a stream. Raises ValueError if it is damaged, or of a newer pramfs."""
    try:
        fields = json.loads(data)
    except (ValueError, RecursionError):
        raise ValueError("it is cut off, or no manifest") from None
    if not isinstance(fields, dict) or fields.pop("format", None) != _FORMAT:
        raise ValueError("it is no manifest")
    digest, version = fields.pop("digest", None), fields.pop("version", None)
    if version != _VERSION:
        raise ValueError(f"it has version {version}, this pramfs reads version {_VERSION}")
    if digest != _digest({"format": _FORMAT, "version": version, **fields}):
        raise ValueError("it fails its checksum")
    try:
        manifest = Manifest(**fields | {"pieces": tuple(fields["pieces"])})
        _check(manifest, stream)
    except (TypeError, KeyError):
        raise ValueError("it has other fields") from None
    return manifest


def _digest(fields: dict[str, Any]) -> str:
    """Return the digest of all fields, in one form that they have in common."""
    text = json.dumps(fields, sort_keys=True, separators=(",", ":"))
    return digest_of(text.encode())


def _check(manifest: Manifest, stream: str) -> None:
    """Raise ValueError or TypeError for what no sender writes."""
    kinds: dict[str, object] = Manifest.__annotations__
    for field, kind in kinds.items():
        value = getattr(manifest, field)
        if kind in {int, str, bool} and type(value) is not kind:
            raise TypeError(field)
        if kind is int and not 0 <= value <= _NUMBER_MAX:
            raise ValueError(f"it cannot have {field} {value}")
    size, piece = manifest.size, manifest.piece_bytes
    digests = [*manifest.pieces, *filter(None, (manifest.identity, manifest.base_identity))]
    if (
        manifest.id != stream
        or not 0 < piece <= _PIECE_BYTES_MAX
        or len(manifest.pieces) != -(-size // piece)
        or not all(re.fullmatch("[0-9a-f]+", str(one)) for one in digests)
        or len(manifest.identity) != 2 * IDENTITY_BYTES
        or len(manifest.base_identity) not in {0, 2 * IDENTITY_BYTES}
        or bool(manifest.base) != bool(manifest.base_identity)
        or (manifest.base and not is_id(manifest.base))
        or max(len(manifest.name), len(manifest.base_name)) > NAME_BYTES
    ):
        raise ValueError("it is not what pramfs writes")
