"""When memory runs out the daemon is not the first to go, and whom the kernel ends is somebody's decision.

juicedata/juicefs #3861: memory ran out, the daemon was killed, and who used the mount found it empty.
juicedata/juicefs #7466: a daemon that may never be killed left the kernel nobody to end in its cgroup.
"""

from pathlib import Path

import pytest

from tests.field.surroundings import Caller
from tests.mounted.admin_shell import Shell, open_to_nobody
from tests.mounted.harness import NOBODY, run

SPARED = -500
_SET = "open('/proc/self/oom_score_adj', 'w').write('{}')"


def may_lower() -> bool:
    """Whether root may here: it takes CAP_SYS_RESOURCE."""
    return run("sh", "-c", f"echo {SPARED} >/proc/self/oom_score_adj").code == 0


@pytest.mark.parametrize(
    ("inherited", "then"), [("0", SPARED), ("200", SPARED), ("300", 300), ("1000", 1000)]
)
def test_others_go_first(shell: Shell, root: Path, image: Path, inherited: str, then: int) -> None:
    Caller(shell, _SET.format(inherited)).run("mount", "-o", "size=16M", image, root).succeeded()
    score = Path(f"/proc/{shell.status(root)['pid']}/oom_score_adj")
    assert int(score.read_text()) == (then if may_lower() else int(inherited))
    shell.pramfs("umount", root).succeeded()


def test_who_may_not_lower_the_score_mounts_as_well(shell: Shell) -> None:
    home = open_to_nobody(shell.home / "user")
    shell.run("mkdir", home / "mnt", user=NOBODY).succeeded()
    caller = Caller(shell, _SET.format(100), NOBODY)
    caller.run("mount", "-o", "size=16M", home / "image", home / "mnt").succeeded()
    told = shell.run(
        "sh", "-c", "cat /proc/$1/oom_score_adj", "sh", str(shell.status(home / "mnt")["pid"])
    )
    assert told.text == "100\n"
    caller.run("umount", home / "mnt").succeeded()
