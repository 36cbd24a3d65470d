"""Which tests may run beside each other, when a run has several processors.

Tests that mount may change what belongs to the whole machine, and two virtual machines at a time take too
much memory: such tests run one after the other, in one worker. This is a lane. Each lane may run beside any
other one. All other tests write only to places of their own, and each goes to the worker that is free.
"""

from xdist.scheduler import LoadScopeScheduling

# Directories of tests/. One that is not named here has a lane of its own.
_MACHINES = {"boot", "kexec", "large_pages", "network"}
_FREE = {"corruption", "crash", "golden", "model", "unit"}

# The longest lanes: they come first, since what is begun last should be short.
_LONG = ["mounted", "virtual machines", "field", "distributions"]


def lane(nodeid: str) -> str | None:
    """Return the lane of a test, None for one that may run beside any other."""
    *directories, _ = nodeid.partition("::")[0].split("/")
    if len(directories) < 2:  # in no tier: a test's own sample of a test
        return None
    tier = directories[1]
    if tier in _MACHINES:
        return "virtual machines"
    return None if tier in _FREE else tier


def place(nodeid: str) -> int:
    """Return how far back in a run a test stands: a key to sort by."""
    found = lane(nodeid)
    return _LONG.index(found) if found in _LONG else len(_LONG) + (found is None)


class Lanes(LoadScopeScheduling):
    """Gives a lane as a whole to one worker, and all other tests one by one."""

    def _split_scope(self, nodeid: str) -> str:
        return lane(nodeid) or nodeid
