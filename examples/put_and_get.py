"""Store a stream of bytes in an image, and read it back.

    python examples/put_and_get.py IMAGE NAME TEXT

The image is made if there is none. A node of that name is replaced. IMAGE must not be mounted.
"""

import sys
from pathlib import Path

from pramfs.pram import BYTE_STREAM, Pram, PramError

FRAMES = 1024  # of a new image: 4 MiB


def put(image: Path, name: str, data: bytes) -> None:
    """Store `data` as the node `name`."""
    with Pram.open(image) if image.exists() else Pram.create(image, FRAMES) as pram:
        if name in pram.nodes:
            pram.free(name)
        # Leaving the block completes the node; an exception in it would discard the node.
        with pram.prepare_save(name, BYTE_STREAM) as stream:
            stream.write(data)
        # Until here nothing has changed for anybody else. This is all or nothing, and durable.
        pram.publish()


def get(image: Path, name: str) -> bytes:
    """Return the data of the node `name`."""
    with (
        Pram.open(image, writable=False) as pram,
        pram.prepare_load(name, BYTE_STREAM) as stream,
    ):
        pieces = []
        while piece := stream.read(1 << 20):  # every page is verified
            pieces.append(piece)
        return b"".join(pieces)


def main() -> None:
    """Put the text, get it, and print it."""
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    _, image, name, text = sys.argv
    try:
        put(Path(image), name, text.encode())
        print(get(Path(image), name).decode())
    except (PramError, OSError) as exc:
        sys.exit(f"put_and_get: {exc}")


if __name__ == "__main__":
    main()
