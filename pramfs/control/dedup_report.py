"""What a daemon tells of deduplication, as JSON, and what clients make of it."""

import json
from dataclasses import asdict, dataclass

from pramfs.system.json_values import from_json


@dataclass(frozen=True, slots=True, kw_only=True)
class DedupReport:
    """The outcome of the last `pramfs dedup`, in pages, and how far one under way is (see docs/json.md)."""

    pages: int = 0  # looked at
    shared: int = 0  # that were given the frame of another page with the same bytes
    holes: int = 0  # that held zeros, and are holes now
    freed: int = 0  # that memory was freed for
    held: int = 0  # of them, those whose memory comes back with the next save
    done: int = 0  # looked at so far by the one under way
    total: int = 0  # that it has to look at; 0: none is under way

    def to_json(self) -> bytes:
        """Return the JSON that `parse_report` understands, also that of other versions."""
        return json.dumps(asdict(self)).encode()


def parse_report(text: bytes) -> DedupReport:
    """Return the report that a daemon, perhaps of another version, tells. Raises ValueError."""
    return from_json(DedupReport, text)
