"""What Debian's own kernel does at a save: it hands pages over without waiting until they are taken."""

import base64
import json

import pytest

from tests.kexec.session import Session

pytestmark = pytest.mark.timeout(900)

# Much is written, and nothing closed: it is all with the kernel when the save begins.
_PROGRAM = """
import json, os, pathlib, signal, subprocess, sys
image, root = pathlib.Path("/tmp/flush"), pathlib.Path("/tmp/flush.mnt")
root.mkdir()
command = ["pramfs", "mount", "-o", "size=200M", image, root]
settings = [pathlib.Path(f"/proc/sys/vm/dirty_{name}") for name in ("ratio", "background_ratio")]
before = [setting.read_text() for setting in settings]
for setting, percent in zip(settings, ("60", "50")):
    setting.write_text(percent)
lost = []
for number in range(3):
    subprocess.run(command, check=True)
    device = root.stat().st_dev
    limit = pathlib.Path(f"/sys/class/bdi/{os.major(device)}:{os.minor(device)}/max_ratio")
    limit.write_text("100")
    daemon = int(os.getxattr(root, "user.pramfs.pid"))
    content = bytes([number + 1]) * (60 << 20)
    file = os.open(root / "file", os.O_RDWR | os.O_CREAT)
    os.pwrite(file, content, 0)
    directory = os.open(root, os.O_RDONLY)
    os.fsync(directory)
    os.kill(daemon, signal.SIGKILL)
    subprocess.run(["umount", "-i", "-l", root], check=True)
    for descriptor in (file, directory):
        try:
            os.close(descriptor)
        except OSError:
            pass  # of a daemon that is gone
    subprocess.run(command, check=True)
    lost.append((root / "file").read_bytes() != content)
    subprocess.run(["pramfs", "umount", root], check=True)
image.unlink()
root.rmdir()
for setting, percent in zip(settings, before):
    setting.write_text(percent)
print(json.dumps(lost))
"""


def test_a_save_holds_what_the_kernel_had_still_to_hand_over(session: Session) -> None:
    program = base64.b64encode(_PROGRAM.encode()).decode()
    command = f"echo {program} | base64 -d | python3 - 2>/dev/null"
    told = session.machine.run(command).splitlines()[-1]
    assert json.loads(told) == [False, False, False]
