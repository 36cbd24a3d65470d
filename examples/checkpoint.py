"""Take a checkpoint of a running mount, and say what it has published.

    python examples/checkpoint.py MOUNTPOINT

Only root and the user who mounted it may do this.
"""

import sys
from pathlib import Path

from pramfs.control.client import read_status, request_save
from pramfs.errors import PramError


def main() -> None:
    """Save, and print the generation before and after."""
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    mountpoint = Path(sys.argv[1])
    try:
        before = read_status(mountpoint)
        request_save(mountpoint)  # returns when everything written before is durable
        after = read_status(mountpoint)
    except PramError as exc:
        sys.exit(f"checkpoint: {exc}")
    print(f"{before.unpublished_pages} pages were not saved")
    print(f"generation {before.generation} -> {after.generation} in {after.image}")


if __name__ == "__main__":
    main()
