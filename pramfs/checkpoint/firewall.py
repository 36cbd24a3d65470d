"""A rule of nftables that drops what comes for dumped processes: the kernel would answer it with a reset.

Whole ports of listening sockets are dropped, too: who connects meanwhile tries again, and is not refused.
"""

import subprocess
from collections.abc import Sequence

from pramfs.checkpoint.endpoints import Endpoint
from pramfs.errors import PramError, SystemFault

_TABLE = "inet pramfs_checkpoint"
_BEFORE_OTHERS = -500  # priority


def hold(endpoints: Sequence[Endpoint]) -> None:
    """Drop packets to these, in place of those of the last call. Raises PramError."""
    _nft(_rules(endpoints))


def release() -> None:
    """Let everything through again. Raises PramError."""
    _nft(f"table {_TABLE}\ndelete table {_TABLE}\n")


def _rules(endpoints: Sequence[Endpoint]) -> str:
    ports = [f"{port}" for address, port in endpoints if not address]
    four = [f"{address} . {port}" for address, port in endpoints if "." in address]
    six = [f"{address} . {port}" for address, port in endpoints if ":" in address]
    drops = [
        f"    {match} {{ {', '.join(elements)} }} drop"
        for match, elements in (
            ("tcp dport", ports),
            ("ip daddr . tcp dport", four),
            ("ip6 daddr . tcp dport", six),
        )
        if elements
    ]
    hook = f"    type filter hook input priority {_BEFORE_OTHERS}; policy accept;"
    chain = "\n".join(["  chain input {", hook, *drops, "  }"])
    # Made if it is not there, so that it can be deleted: all in one transaction.
    return f"table {_TABLE}\ndelete table {_TABLE}\ntable {_TABLE} {{\n{chain}\n}}\n"


def _nft(text: str) -> None:
    try:
        done = subprocess.run(
            ["nft", "-f", "-"], input=text, check=False, capture_output=True, text=True
        )
    except OSError as exc:
        raise SystemFault(f"nft: {exc.strerror}; install nftables") from exc
    if done.returncode:
        why = done.stderr.strip().splitlines()
        raise PramError(f"nft failed: {why[0] if why else done.returncode}")
