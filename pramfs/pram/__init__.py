"""PRAM as a library: nodes, links, streams, reservation and publication, in frames that outlive a process.

Persistent memory is in an image: a file or a block device, divided into frames of 4 KiB. It holds nodes
with unique names; a node is a stream of bytes, or of pages with an index each. What is written becomes part
of the image when it is published, all at once; until then the last published save stays as it is.

    from pramfs.pram import BYTE_STREAM, Pram

    with Pram.create("/dev/shm/keep.pram", frames=1024) as pram:
        with pram.prepare_save("greeting", BYTE_STREAM) as stream:
            stream.write(b"hello")
        pram.publish()
    with Pram.open("/dev/shm/keep.pram", writable=False) as pram:
        with pram.prepare_load("greeting", BYTE_STREAM) as stream:
            print(stream.read(100))

Errors are subclasses of `PramError`, each with an `errno`; writing may also raise OSError. One process at a
time may write to an image, and none while it is mounted. What this module exports is the public interface:
import it from here. Neither FUSE nor a running daemon is needed.

Not for files and directories (`tree`, `saves`), nor for anything that communicates with a daemon or the
kernel. May import `storage`, `system` and `errors`.
"""

from pramfs.errors import (
    BusyPfn,
    CorruptedPage,
    DamagedPage,
    ImageInUse,
    ImageTooSmall,
    InvalidPfn,
    NameTooLong,
    NodeBusy,
    NodeExists,
    NoFrames,
    NoSuchNode,
    NoSuperBlock,
    NotAnImage,
    NotBlank,
    PramError,
    ReadOnlyImage,
    RegionSyntaxError,
    ReservationFailed,
    SaveFailed,
    SystemFault,
    TooMuchBanned,
    UnsupportedFeatures,
    UnsupportedVersion,
    WrongStreamType,
)
from pramfs.pram.nodes import Node, NodeInfo
from pramfs.pram.pram import Pram
from pramfs.pram.streams import LoadStream, SaveStream
from pramfs.storage.image import Image, open_image
from pramfs.storage.layout import BYTE_STREAM, PAGE_SIZE, PAGE_STREAM
from pramfs.storage.regions import Region, Regions, parse_regions

__all__ = [
    "BYTE_STREAM",
    "PAGE_SIZE",
    "PAGE_STREAM",
    "BusyPfn",
    "CorruptedPage",
    "DamagedPage",
    "Image",
    "ImageInUse",
    "ImageTooSmall",
    "InvalidPfn",
    "LoadStream",
    "NameTooLong",
    "NoFrames",
    "NoSuchNode",
    "NoSuperBlock",
    "Node",
    "NodeBusy",
    "NodeExists",
    "NodeInfo",
    "NotAnImage",
    "NotBlank",
    "Pram",
    "PramError",
    "ReadOnlyImage",
    "Region",
    "RegionSyntaxError",
    "Regions",
    "ReservationFailed",
    "SaveFailed",
    "SaveStream",
    "SystemFault",
    "TooMuchBanned",
    "UnsupportedFeatures",
    "UnsupportedVersion",
    "WrongStreamType",
    "open_image",
    "parse_regions",
]
