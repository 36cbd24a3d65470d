"""Whatever a caller hands down to a process, a mount lives a whole life: see docs/surroundings.md."""

from pathlib import Path

import pytest

from tests.field.surroundings import Caller
from tests.mounted.admin_shell import Shell, open_to_nobody
from tests.mounted.harness import MOUNT_FAILED, NOBODY, USAGE

_ALL_SIGNALS = "for n in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}: "

# What a caller has done to itself, and thereby to its children.
INHERITED = {
    "SIGCHLD ignored": "signal.signal(signal.SIGCHLD, signal.SIG_IGN)",
    "all signals ignored": f"{_ALL_SIGNALS}signal.signal(n, signal.SIG_IGN)",
    "all signals blocked": "signal.pthread_sigmask(signal.SIG_SETMASK, signal.valid_signals())",
    "empty environment": "os.environ.clear()",
    "PATH of nothing": "os.environ['PATH'] = '/nonexistent'",
    "PATH empty": "os.environ['PATH'] = ''",
    "PATH with other programs of the same names": (
        "os.makedirs('own', exist_ok=True)\n"
        "for name in ('sync', 'mount'):\n"
        "    with contextlib.suppress(FileExistsError): os.symlink('/bin/false', 'own/' + name)\n"
        "os.environ['PATH'] = os.path.abspath('own') + ':' + os.environ['PATH']"
    ),
    "HOME, TMPDIR and the session's directory gone": (
        "for name in ('HOME', 'TMPDIR', 'XDG_RUNTIME_DIR'): os.environ[name] = '/nonexistent'"
    ),
    "unknown locale": "os.environ['LC_ALL'] = 'xx_XX.unheard-of'",
    "ASCII": "os.environ.update(LC_ALL='C', PYTHONUTF8='0', PYTHONCOERCECLOCALE='0')",
    "umask that forbids everything": "os.umask(0o777)",
    "umask that forbids nothing": "os.umask(0)",
    "current directory gone": "os.mkdir('gone'); os.chdir('gone'); os.rmdir('../gone')",
    "limits that can be raised": (
        "for name in ('FSIZE', 'NOFILE', 'NPROC', 'DATA'):\n"
        "    limit = getattr(resource, 'RLIMIT_' + name)\n"
        "    _, hard = resource.getrlimit(limit)\n"
        "    resource.setrlimit(limit, (1 << 26 if name == 'DATA' else 16, hard))"
    ),
    "no core dumps": "resource.setrlimit(resource.RLIMIT_CORE, (0, 0))",
    "lowest priority": "os.nice(19)",
    "session of its own": "os.setsid() if os.getpid() != os.getsid(0) else None",
    "another process group": "os.setpgid(0, 0)",
    "a descriptor of another FUSE session": (
        "os.set_inheritable(os.open('/dev/fuse', os.O_RDWR), True)"
    ),
    "many descriptors": "for _ in range(500): os.set_inheritable(os.open('/', os.O_RDONLY), True)",
}


@pytest.mark.parametrize("what", INHERITED.values(), ids=INHERITED)
def test_what_a_caller_did_to_itself_does_no_harm(
    shell: Shell, root: Path, image: Path, what: str
) -> None:
    """As in several reports, each about one thing that a program had not expected to inherit.

    FEX-Emu/FEX #4545 and util-linux/util-linux #4101 (SIGCHLD ignored), bazil/fuse #186 (PATH),
    sharkdp/fd #1072 (current directory gone), borgbackup/borg #4112 (ASCII), facebook/sapling #353 (limits).
    """
    Caller(shell, what).lives_a_whole_life(image, root)


def test_who_has_no_current_directory_gives_absolute_paths(
    shell: Shell, root: Path, image: Path
) -> None:
    """sharkdp/fd #1072: a relative path is refused in one line, and nothing is made."""
    caller = Caller(shell, INHERITED["current directory gone"])
    refused = caller.run("mount", "image", root).refused(USAGE, "current directory is gone")
    assert "absolute" in refused.err


def test_a_limit_on_files_that_stays_is_told_before_anything_is_written(
    shell: Shell, root: Path, image: Path
) -> None:
    """metwork-framework/log_proxy #5: `ulimit -f` fails a daemon whose file has grown to it."""
    limited = Caller(shell, "resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))", NOBODY)
    home = open_to_nobody(shell.home / "user")
    image, root = home / "image", home / "mnt"
    shell.run("mkdir", root, user=NOBODY).succeeded()
    told = limited.run("mount", "-o", "size=16M", image, root)
    told.refused(MOUNT_FAILED, "16777216", "1048576", "ulimit -f")
    assert not image.exists()
    shell.pramfs("mount", "-o", "size=16M", image, root, user=NOBODY).succeeded()
    shell.pramfs("umount", root, user=NOBODY).succeeded()
    limited.run("mount", image, root).refused(MOUNT_FAILED, "16777216", "1048576", "ulimit -f")
    limited.run("mount", "-o", "ro", image, root).succeeded()
    limited.run("umount", root).succeeded()
