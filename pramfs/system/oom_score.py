"""Whom the kernel ends first when memory runs out: rather not a daemon, which has data to save."""

import contextlib
from pathlib import Path

# Discounts half of the machine's memory, which is the default size of a mount. A daemon that has taken far
# more is still a candidate, as it must be.
SPARED = -500

_SCORE = Path("/proc/self/oom_score_adj")
# What systemd gives to the system, to users' managers and to their programs. Any other value was chosen.
_NOBODYS_CHOICE = (0, 100, 200)


def ask_to_be_spared() -> None:
    """Let other processes go first, where that is allowed (it takes root) and nobody has chosen a score."""
    with contextlib.suppress(OSError, ValueError):
        if int(_SCORE.read_text()) in _NOBODYS_CHOICE:
            _SCORE.write_text(str(SPARED))


def be_like_others() -> None:
    """Give up a protection that a child has inherited: what it does can be done again."""
    with contextlib.suppress(OSError, ValueError):
        if int(_SCORE.read_text()) < 0:
            _SCORE.write_text("0")
