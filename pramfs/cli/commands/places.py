"""How send, receive and snapshots use a place that keeps streams. Imports the libraries when it is called."""

import argparse
import contextlib
import io
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from pramfs.errors import EmptyPlace, PlaceFailed, UsageError
from pramfs.system.text import complain, counted, printable, when

if TYPE_CHECKING:
    from pramfs.remote.manifest import Manifest
    from pramfs.stream.encode import Data

_UNIT_BYTES = 1 << 20


def send_to(args: argparse.Namespace, compress: "Callable[[Data], bytes] | None") -> int:
    """Send to the place of --to."""
    from pramfs.options import parse_keep
    from pramfs.remote.keep import drop_old, remove_unfinished
    from pramfs.remote.listing import list_streams
    from pramfs.remote.place import open_place
    from pramfs.remote.since import base_in, newest_common, newest_same
    from pramfs.remote.upload import upload
    from pramfs.stream.source import source_at
    from pramfs.system.progress import Bar

    number, seconds = parse_keep(args.keep) if args.keep is not None else (0, 0)
    if args.keep is not None and not number and not seconds:
        raise UsageError("--keep: nothing would be kept")
    place = open_place(args.to, writable=True)
    listing = list_streams(place)
    for damaged in listing.damaged:
        complain(str(damaged))
    since, name = args.since, args.name or ""
    if args.incremental:
        since = newest_common(listing, args.target, name)
    with source_at(args.target, since, name) as sending:
        for warning in sending.warnings:
            complain(warning)
        base = base_in(place, listing, sending)
        stream = newest_same(listing, sending, may_build=bool(since) or args.incremental)
        if stream is not None:
            _tell(f"{place.name}: has {stream.name} already: {stream.id}")
        else:
            with Bar("sending", sending.pages) as bar:
                stream = upload(place, sending, base, compress, bar, after_ns=listing.newest_ns)
            _tell(f"{place.name}: sent {_described(stream)}")
    if args.keep is not None:
        for old in drop_old(place, stream, number, seconds):
            _tell(f"{place.name}: dropped {old.name}: {old.id}")
    else:
        try:
            remove_unfinished(place, listing)
        except PlaceFailed as exc:  # the stream is there
            complain(f"warning: what an interrupted upload has left: {exc}")
    return 0


def receive_from(args: argparse.Namespace, receive: Callable[[io.RawIOBase, str], None]) -> int:
    """Receive what --from names, and first what it builds on; `receive` takes a stream and a name."""
    from pramfs.remote.chain import steps_to
    from pramfs.remote.download import PieceReader
    from pramfs.remote.listing import find_stream
    from pramfs.remote.place import open_place, split_place

    where, wanted = split_place(args.place)
    place = open_place(where)
    stream, listing = find_stream(place, wanted)
    for step in steps_to(place, listing, stream, args.target, args.new_name or ""):
        with PieceReader(place, step.stream) as reader:
            receive(reader, step.name)
    return 0


def list_place(text: str, *, as_json: bool) -> int:
    """Print the streams of a place."""
    import json
    from dataclasses import asdict

    from pramfs.remote.listing import list_streams
    from pramfs.remote.place import open_place

    place = open_place(text)
    listing = list_streams(place)
    if as_json:
        streams = [asdict(one) | {"missing": listing.missing_for(one)} for one in listing.streams]
        for stream in streams:
            del stream["pieces"], stream["piece_bytes"]
        print(json.dumps({"place": place.name, "streams": streams}, indent=2))
    else:
        width = max((len(printable(one.name)) for one in listing.streams), default=0)
        for one in listing.streams:
            missing = listing.missing_for(one)
            lacks = f", cannot be received: {missing} is not there" if missing else ""
            facts = _facts(one) + lacks
            print(f"{printable(one.name):{width}}  {when(one.sent_ns)}  {one.id}  {facts}")
    if not listing.streams and not listing.damaged:
        raise EmptyPlace(place.name)
    for damaged in listing.damaged:
        complain(str(damaged))
    return listing.damaged[0].exit_code if listing.damaged else 0


def refuse_stream(path: Path) -> None:
    """Raise NotAPlace if a file here that is no image is a stream, or a part of one."""
    from pramfs.remote.manifest import place_of
    from pramfs.remote.place import no_place
    from pramfs.stream.format import MAGIC

    if not path.is_file():
        return  # nor is it one that cannot be read
    with contextlib.suppress(OSError), path.open("rb") as file:
        if file.read(len(MAGIC)) == MAGIC or place_of(str(path)) is not None:
            raise no_place(str(path), "a stream in a file")


def is_place(target: Path | str) -> bool:
    """Return whether a target is no image and no mount: a URL, or a directory where nothing is mounted."""
    from pramfs.system import mountinfo

    return isinstance(target, str) or (not mountinfo.mount_at(target) and target.is_dir())


def _described(stream: "Manifest") -> str:
    return f"{stream.name} as {stream.id}: {counted(stream.pages, 'page')}, {_facts(stream)}"


def _facts(stream: "Manifest") -> str:
    builds = f", builds on {printable(stream.base_name)} {stream.base}" if stream.base else ""
    return f"{_size(stream.size)}{builds}"


def _size(size_bytes: int) -> str:
    if size_bytes < _UNIT_BYTES:
        return f"{-(-size_bytes // 1024)} KiB"
    return f"{size_bytes / _UNIT_BYTES:,.1f} MiB"


def _tell(message: str) -> None:
    print(printable(message), file=sys.stderr)
