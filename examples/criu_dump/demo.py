"""The demo, step by step: dump live processes into pramfs, unmount, mount again, compare."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path

from examples.criu_dump.dump import dump, pre_dump
from examples.criu_dump.images import ImagesWriter
from examples.criu_dump.process import Process
from examples.criu_dump.shell import (
    FailureError,
    banned_table,
    is_mounted,
    make_place,
    memory_available_bytes,
    pramfs,
    run_files,
    unmount_leftover,
)
from examples.criu_dump.story import MIB, Step, Story
from examples.criu_dump.verify import (
    Attributes,
    attributes_of_tree,
    compare_attributes,
    compare_digests,
    compare_memory,
    compare_state,
)

IMAGE_MIB = 512
BANNED_MIB = 16
DUMPED_MIB_MIN = 256
MEMORY_MIB_MIN = 1024  # the processes, the image, and some air
ROUNDS_OF_WORK = 3
SMALL_BYTES_MAX = 50_000


class Demo:
    """Where things are, what runs, and the steps in their order.

    What has to be undone in the end, whatever happens, is left in `cleanup`.
    """

    def __init__(self, story: Story, cleanup: ExitStack) -> None:
        if memory_available_bytes() < MEMORY_MIB_MIN * MIB:
            raise FailureError(f"less than {MEMORY_MIB_MIN} MiB of memory are available")
        self._story = story
        self._cleanup = cleanup
        self._place = make_place(IMAGE_MIB * MIB)
        self._image = self._place / "image"
        self._mountpoint = self._place / "mnt"
        self._run_files: tuple[Path, ...] = ()
        self._digests: dict[Path, str] = {}
        cleanup.callback(self._remove_everything)
        self._mountpoint.mkdir()

    def run(self) -> None:
        """Take every step; the first that fails raises, after showing what the daemon had to say."""
        try:
            self._take_steps()
        except Exception:
            for log in self._run_files[:1]:
                self._story.appendix(f"The log of the daemon, {log}", log.read_text())
            raise

    def _take_steps(self) -> None:
        workload, processes = self._start()
        self._mount("Mount a new image")
        self._take_pre_dump(processes)
        self._work(workload)
        self._take_dump(processes)
        before = attributes_of_tree(self._mountpoint)
        self._unmount("Unmount: done when everything is saved")
        self._look()
        self._mount("Mount it again, with a new daemon")
        self._compare(processes, before)
        self._unmount("Unmount")

    def _remove_everything(self) -> None:
        unmount_leftover(self._mountpoint)
        for path in self._run_files:
            path.unlink(missing_ok=True)
        shutil.rmtree(self._place)

    def _start(self) -> tuple[subprocess.Popen[str], list[Process]]:
        with self._story.step("Start a process worth keeping") as step:
            workload = subprocess.Popen(
                [sys.executable, "-m", "examples.criu_dump.workload"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                start_new_session=True,  # so that Ctrl-C reaches the demo alone
            )
            self._cleanup.callback(_kill_session, workload)
            child = int(_answer(workload).removeprefix("ready "))
            step.command(["cd", str(self._place)])
            step.say(f"pid {workload.pid}: random bytes, numbers, records, an sqlite database, a")
            step.say("fragmented mapping, a deleted file that is still open;")
            step.say(f"pid {child}: its child, at the other end of a pipe")
        return workload, [Process(workload.pid), Process(child)]

    def _mount(self, title: str) -> None:
        with self._story.step(title) as step:
            options = f"size={IMAGE_MIB}M,banned=0-{BANNED_MIB}M"
            pramfs(step, self._place, "mount", "-o", options, "image", "mnt")
            if not is_mounted(self._mountpoint):
                raise FailureError("pramfs mount exited with 0, and nothing is mounted")
            self._run_files = run_files(self._place, "mnt")
            for line in banned_table(self._run_files[0]):
                step.say(line)

    def _take_pre_dump(self, processes: list[Process]) -> None:
        with self._story.step("Stop the processes, write their memory, let them go on") as step:
            length = _stop(processes)
            if length < DUMPED_MIB_MIN * MIB:
                raise FailureError(f"the processes hold no more than {length // MIB} MiB")
            step.expect(length)
            with ImagesWriter(self._mountpoint / "prev") as images:
                pre_dump(images, processes, step.progress)
            for process in processes:
                process.resume()
            self._tell(step, images)

    def _work(self, workload: subprocess.Popen[str]) -> None:
        with self._story.step("They work on, and change some of it") as step:
            for _ in range(ROUNDS_OF_WORK):
                step.say(_ask_for_work(workload))

    def _take_dump(self, processes: list[Process]) -> None:
        with self._story.step("Stop them for good, write what has changed, and the rest") as step:
            step.expect(_stop(processes))
            with ImagesWriter(self._mountpoint / "dump") as images:
                dump(images, processes, self._mountpoint / "prev", step.progress)
            self._tell(step, images)

    def _unmount(self, title: str) -> None:
        with self._story.step(title) as step:
            pramfs(step, self._place, "umount", "mnt")
            if is_mounted(self._mountpoint):
                raise FailureError("pramfs umount exited with 0, and it is still mounted")

    def _look(self) -> None:
        with self._story.step("What the image holds") as step:
            pramfs(step, self._place, "info", "image")
            with self._image.open("rb") as image:
                for _ in range(BANNED_MIB):
                    if any(image.read(MIB)):
                        raise FailureError("something has been written to a banned frame")
            step.say(f"the first {BANNED_MIB} MiB of the image, banned, are all zeros")

    def _compare(self, processes: list[Process], before: Mapping[Path, Attributes]) -> None:
        dumped = self._mountpoint / "dump"
        with self._story.step("Compare the memory of the processes, still stopped") as step:
            length = sum(process.own_length() for process in processes)
            step.expect(length)
            compare_memory(dumped, processes, step.progress)
            step.say(f"{length:,} bytes in {len(processes)} processes: each as it is in memory")
        with self._story.step("Compare everything else") as step:
            step.expect(sum(attributes.size for attributes in before.values()))
            compare_state(dumped, processes)
            step.say("memory maps and the deleted file: as the processes have them")
            compare_digests(self._digests, step.progress)
            step.say(f"{len(self._digests)} files: each byte as it was written")
            compare_attributes(before, attributes_of_tree(self._mountpoint))
            step.say(f"{len(before)} names: modes, owners, times, links, inode numbers as before")

    def _tell(self, step: Step, images: ImagesWriter) -> None:
        """Say what a dump has written, and remember the digests of it."""
        self._digests |= images.digests
        rate = images.page_bytes / MIB / images.splice_seconds
        step.say(f"{images.page_bytes / MIB:.1f} MiB of pages, spliced at {rate:,.0f} MiB/s")
        step.say(f"{images.log_lines:,} lines of log, appended one by one")
        for line in _listing(images.directory):
            step.say(line)


def _listing(directory: Path) -> Iterator[str]:
    """Yield a line for each file that is big or special, and one for all the others."""
    small: list[int] = []
    for path in sorted(directory.iterdir()):
        size = path.lstat().st_size
        name = f"{directory.name}/{path.name}"
        if path.is_symlink():
            yield f"{'link':>13}  {name} -> {path.readlink()}"
        elif path.is_socket():
            yield f"{'socket':>13}  {name}"
        elif size > SMALL_BYTES_MAX:
            yield f"{size:>13,}  {name}"
        else:
            small.append(size)
    yield f"{sum(small):>13,}  in {len(small)} small images of {min(small)} to {max(small):,} bytes"


def _stop(processes: list[Process]) -> int:
    """Stop processes, and return how many bytes of memory are their own."""
    for process in processes:
        process.stop()
    return sum(process.own_length() for process in processes)


def _answer(workload: subprocess.Popen[str]) -> str:
    assert workload.stdout is not None
    line = workload.stdout.readline().strip()
    if not line:
        raise FailureError("the workload has died")
    return line


def _ask_for_work(workload: subprocess.Popen[str]) -> str:
    assert workload.stdin is not None
    workload.stdin.write("work\n")
    workload.stdin.flush()
    return _answer(workload)


def _kill_session(workload: subprocess.Popen[str]) -> None:
    os.killpg(workload.pid, signal.SIGKILL)
    workload.communicate()
