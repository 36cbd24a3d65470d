"""A tree that a client offers to a daemon: its pages, and what they make up, in a file without a name.

The client has written it there, in the mount, so the daemon need not read it anew: it makes the frames of the
file those of a new tree. Behind the pages come metadata, births and runs, as docs/stream.md says of a stream.
But the numbers in runs are frames of the base or, from `NEW_PAGES` on, pages of the file.
"""

import json
from dataclasses import asdict, dataclass

from pramfs.system.json_values import from_json

NEW_PAGES = 1 << 32


@dataclass(frozen=True, slots=True)
class TreeOffer:
    """The value of the control attribute that offers a tree."""

    inode: int  # of the file
    name: str  # that the tree gets
    base: str  # the tree whose frames it has, "" if it needs none
    pages: int
    metadata_bytes: int
    more_bytes: int
    runs_bytes: int
    marks: int = 0  # what is known that the tree lacks, see `mark_tree`

    def to_json(self) -> bytes:
        """Return the value of the control attribute, for `parse_offer`."""
        return json.dumps(asdict(self)).encode()


def parse_offer(text: bytes) -> TreeOffer:
    """Return the offer that a client makes. Raises ValueError."""
    return from_json(TreeOffer, text)
