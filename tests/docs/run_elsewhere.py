"""What the documents show and a test cannot run as it stands, and what runs instead.

Kept to the letter: what is no longer shown must go from here.
"""

from typing import NamedTuple


class Elsewhere(NamedTuple):
    """A command that takes another kernel, CRIU, hours, or this very test run.

    `tested` is `FILE::TEXT`: where the command is run for good, and a text to be found there. `instead`
    runs in its place, so that what follows it finds what it needs.
    """

    tested: str
    instead: str = ":"


_DUMPED = 'tests/kexec/session.py::"criu", "dump", "-D"'
_RESTORED = 'tests/kexec/session.py::"criu", "restore", "-d", "-D"'
_DUMP = "cat /proc/$PID/maps > {}/maps"
_RESTORE = "grep -q '[[]stack[]]' {}/maps"
_WHEEL = Elsewhere("tests/packaging/test_wheel.py::pipx")
_MODEL = Elsewhere("tests/unit/test_fleet_model.py::def test_the_page_shows_what_the_model_prints")
_BENCH = Elsewhere("tests/docs/run_elsewhere.py::--quick --only overhead")
_PLACES = 'tests/unit/test_remote.py::"send", f"{image}@one", "--to"'
_SHOWN = (
    "pramfs send --to {} /mnt/dump@monday",
    "pramfs send --to {} --incremental --keep 7d /mnt/dump@tuesday",
    "pramfs snapshots {}",
    "pramfs receive --from {} /dev/shm/copy.pram",
    "pramfs receive --from {}@tuesday /dev/shm/copy.pram",
)

ELSEWHERE = {
    **{
        shown.format("s3://backups/dump"): Elsewhere(_PLACES, shown.format("/srv/backups/dump"))
        for shown in _SHOWN
    },
    "scripts/test": Elsewhere(".ci/run::exec scripts/test"),
    "apt install ./pramfs_*~deb12_amd64.deb": Elsewhere(
        "tests/debian_package/test_debian_package.py::apt install --no-install-recommends"
    ),
    "sudo scripts/build-deb": Elsewhere("scripts/build-deb::-m tests.debian_package.build"),
    "scripts/setup --dev": Elsewhere("scripts/test::scripts/setup --dev"),
    "apt-get install fuse3 gcc libc6-dev libfuse3-dev pkg-config python3-dev pipx": Elsewhere(
        "scripts/setup::apt-get install"
    ),
    ".venv/bin/pip wheel --no-deps --wheel-dir dist .": _WHEEL,
    "pipx install dist/pramfs-*.whl": _WHEEL._replace(
        instead="venvs=$(pipx environment --value PIPX_LOCAL_VENVS); mkdir -p $venvs; "
        'ln -s "$(realpath "${PRAMFS_VENV:-.venv}")" $venvs/pramfs'
    ),
    "scripts/api-reference": Elsewhere(
        "tests/packaging/test_api_reference.py::scripts/api-reference"
    ),
    "criu dump -D /mnt/dump -t $PID": Elsewhere(_DUMPED, _DUMP.format("/mnt/dump")),
    "criu restore -d -D /mnt/dump": Elsewhere(_RESTORED, _RESTORE.format("/mnt/dump")),
    "mkdir /mnt/web && criu dump -D /mnt/web -t PID -v4 -o dump.log": Elsewhere(
        _DUMPED, "mkdir /mnt/web; " + _DUMP.format("/mnt/web")
    ),
    "criu restore -d -D /mnt/web -v4 -o restore.log": Elsewhere(
        _RESTORED, _RESTORE.format("/mnt/web")
    ),
    "pramfs kexec --dry-run /dev/pmem0": Elsewhere("tests/kexec/test_dangers.py::--dry-run"),
    "pramfs kexec --load-only /dev/pmem0": Elsewhere("tests/kexec/test_dangers.py::--load-only"),
    "pramfs kexec --load-only /dev/shm/keep.pram": Elsewhere(
        "tests/kexec/test_live_update.py::pramfs kexec --load-only /dev/shm/keep.pram"
    ),
    "pramfs claim": Elsewhere('tests/kexec/test_live_update.py::"pramfs claim"'),
    "pramfs claim --list": Elsewhere('tests/kexec/test_live_update.py::"pramfs claim --list"'),
    "pramfs claim --to /srv/keep.pram /dev/shm/keep.pram": Elsewhere(
        "tests/kexec/test_live_update.py::pramfs claim --to /tmp/keep.pram {IMAGE}"
    ),
    "pramfs takeover /dev/nbd0": Elsewhere('tests/mounted/test_other_machine.py::"takeover"'),
    "pramfs mount /dev/nbd0 /mnt/keep": Elsewhere(
        'tests/mounted/test_other_machine.py::"takeover"'
    ),
    "pramfs kexec --checkpoint": Elsewhere(
        "tests/kexec/test_checkpoint.py::pramfs kexec --checkpoint={CONFIGURATION}"
    ),
    "pramfs restore /mnt": Elsewhere("tests/kexec/test_checkpoint.py::pramfs restore --json /mnt"),
    "systemctl kexec": Elsewhere('tests/kexec/test_dangers.py::machine.kexec("kexec -e")'),
    "scripts/fleet-model": _MODEL,
    "scripts/fleet-model batches": _MODEL,
    "scripts/fleet-model limits": _MODEL,
    "scripts/fleet-model --together": _MODEL,
    "sudo scripts/bench": _BENCH,
    "sudo scripts/bench --quick": _BENCH,
    "sudo scripts/bench --long": _BENCH,
    "sudo scripts/bench --only saves --only start --json run.json --svg run.svg": _BENCH._replace(
        instead="scripts/bench --quick --only overhead --json ~/run.json --svg ~/run.svg"
    ),
}

# Blocks that are no commands, by the document and the first words.
NO_COMMANDS = {
    "README.md: pramfs mount [-f]": "synopses, read by tests/unit/test_readme.py",
    "docs/design.md:                 +---": "a drawing",
    "docs/design.md:            begin ": "a drawing",
    "docs/format.md: super block ──node_pfn──>": "a drawing",
    "docs/kexec.md: processes ──criu dump──▶": "a drawing",
    "docs/kexec.md: mountpoint = ": "a configuration, read by pramfs kexec --checkpoint",
    "docs/kexec.md: 400000000-7ffffffff : Persistent": "a line of /proc/iomem",
    "docs/kexec.md: image:    /dev/pmem0, generation": "what pramfs kexec printed in a virtual machine",
    "docs/kexec.md: 20000000-23ffffff : Persistent": "what a kernel without pmem devices printed",
    "docs/kexec.md: pramfs: processes go on": "what scripts/kexec-demo prints",
    "docs/testing.md: cd MOUNTPOINT && stress-ng": "a suite of others, which scripts/setup does not install",
}
