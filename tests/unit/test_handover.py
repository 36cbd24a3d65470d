"""Images handed over by live update and claimed again, with a double in place of the kernel's part."""

import errno
import fcntl
import os
import signal
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pramfs.cli.main import main
from pramfs.control import kept
from pramfs.control.kept import State
from pramfs.daemon import loader
from pramfs.errors import HandedOver, LiveUpdateRefused, NotClaimed, PramError
from pramfs.liveupdate import claim, handover, keeper, manifest
from pramfs.liveupdate.claim import Claim
from pramfs.liveupdate.handover import HandOver
from pramfs.liveupdate.manifest import Manifest
from pramfs.offline import kexec
from pramfs.offline.check import check_image
from pramfs.options import parse_options
from pramfs.storage.image import Image, open_image
from pramfs.system import luo
from pramfs.system.memory_left import MemoryLeft
from tests.support.image_files import flip, frames_of, make_image
from tests.support.luo_double import LiveUpdate

FRAMES = 4096


@pytest.fixture
def tmpfs() -> Iterator[Path]:
    if not os.access("/dev/shm", os.W_OK):
        pytest.skip("takes a tmpfs")
    with tempfile.TemporaryDirectory(prefix="pramfs-test.", dir="/dev/shm") as directory:
        yield Path(directory)


@pytest.fixture(autouse=True)
def run_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(kept, "DIRECTORY", tmp_path / "kept")
    monkeypatch.setattr(kept, "_COMMAND_LINE", tmp_path / "cmdline")
    (tmp_path / "cmdline").write_text("quiet kho=on liveupdate=on\n")
    monkeypatch.setattr(luo, "_COMMAND_LINE", tmp_path / "cmdline")
    monkeypatch.setattr(kexec, "_LOADED", tmp_path / "none")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    # A worker of the test runner has a thread of its own.
    monkeypatch.setattr(keeper, "require_single_thread", lambda: None)
    return tmp_path / "kept"


@pytest.fixture
def kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LiveUpdate:
    return LiveUpdate(tmp_path, monkeypatch)


@pytest.fixture
def image(tmpfs: Path) -> Iterator[Image]:
    path = make_image(tmpfs / "image", frames=FRAMES)
    path.chmod(0o640)
    os.setxattr(path, "user.note", b"\0kept\xff")
    with open_image(path, writable=True) as image:
        assert image.try_lock()
        yield image


def carried_over(kernel: LiveUpdate, image: Image) -> Claim:
    """The image in the next kernel, where it has no name yet."""
    HandOver([image]).take()
    image.path.unlink()
    kernel.kexec()
    session = luo.retrieve_session(handover.SESSION)
    assert session is not None
    return Claim(session)


def is_clean(path: Path) -> bool:
    with open_image(path, writable=False) as image:
        return check_image(image).clean


# --- there and back -------------------------------------------------------------------------------


def test_an_image_comes_back_with_its_name_length_mode_and_xattrs(
    kernel: LiveUpdate, image: Image
) -> None:
    path = image.path
    outcome = carried_over(kernel, image).place(None, None)
    assert outcome.placed == (f"{path}: clean",)
    assert not outcome.damaged + outcome.kept
    assert path.stat().st_size == FRAMES << 12
    assert path.stat().st_mode & 0o7777 == 0o640
    assert os.getxattr(path, "user.note") == b"\0kept\xff"
    assert is_clean(path)


@pytest.mark.parametrize("name", ["two\nlines", "a blank", "no\udcffutf", "100%"])
def test_an_image_comes_back_under_its_name_whatever_that_is(
    kernel: LiveUpdate, tmpfs: Path, tmp_path: Path, name: str
) -> None:
    path = make_image(tmpfs / name)
    with open_image(path, writable=True) as image:
        handed_to_the_next_kernel(kernel, image, tmp_path)
    with pytest.raises(NotClaimed):
        kept.refuse_if_kept(path)
    assert [item.path for item in claim.listed()] == [str(path)]
    assert main(["claim", str(path)]) == 0
    assert is_clean(path)


def test_an_image_that_is_sound_is_verified_without_loading_its_trees(
    kernel: LiveUpdate, image: Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They may take far more than a claim may have."""
    monkeypatch.setattr("pramfs.offline.check.load_tree", fail_with(AssertionError("loaded")))
    assert carried_over(kernel, image).place(None, None).placed == (f"{image.path}: clean",)


def test_what_is_handed_over_is_as_short_as_what_the_image_holds(
    kernel: LiveUpdate, image: Image
) -> None:
    (line,) = HandOver([image]).take()
    assert line.startswith(f"{image.path}, {image.size_bytes >> 10} KiB, ")
    assert image.frames < FRAMES / 8


@pytest.mark.parametrize("available", [0, 1 << 40])
def test_what_was_handed_over_can_be_taken_back(
    kernel: LiveUpdate, image: Image, available: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(handover, "_available_bytes", lambda: available)
    hand_over = HandOver([image])
    hand_over.take()
    is_moved = not image.path.read_bytes().strip(b"\0")
    assert is_moved == (not available)
    hand_over.take_back()
    assert image.path.stat().st_size == FRAMES << 12
    assert is_clean(image.path)


@pytest.mark.parametrize("available", [0, 1 << 40])
@pytest.mark.parametrize(
    ("number", "told"),
    [
        (errno.EFBIG, "too large"),
        (errno.ENOMEM, "out of memory"),
        (errno.ENOENT, "does not carry memory files"),
    ],
)
def test_a_refusal_of_the_kernel_is_told_and_undone(
    kernel: LiveUpdate,
    image: Image,
    number: int,
    told: str,
    available: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(handover, "_available_bytes", lambda: available)
    kernel.fail(luo._PRESERVE_FD, number)
    with pytest.raises(PramError, match=told), handover.handed_over([image]):
        pytest.fail("it was handed over")
    assert image.path.stat().st_size == FRAMES << 12
    assert is_clean(image.path)
    assert not kept.is_kept()


# --- what cannot be put back ----------------------------------------------------------------------


def test_an_image_whose_path_is_taken_is_kept_and_can_go_elsewhere(
    kernel: LiveUpdate, image: Image
) -> None:
    path = image.path
    claim = carried_over(kernel, image)
    path.write_text("another")
    (line,) = claim.place(None, None).kept
    assert line == f"{path}: kept, because {path} is there already"
    assert path.read_text() == "another"
    other = path.with_name("other")
    assert claim.place(str(path), str(other)).placed == (f"{other}: clean",)
    assert is_clean(other)
    assert claim.items == []


def test_an_image_whose_directory_is_not_there_comes_back_once_it_is(
    kernel: LiveUpdate, image: Image
) -> None:
    path, gone = image.path, image.path.parent.with_name(f"{image.path.parent.name}.gone")
    claim = carried_over(kernel, image)
    path.parent.rename(gone)
    try:
        (line,) = claim.place(None, None).kept
        assert "No such file or directory" in line
    finally:
        gone.rename(path.parent)
    assert claim.place(None, None).placed == (f"{path}: clean",)


def test_an_image_does_not_come_back_to_a_disk_unless_it_is_asked_for(
    kernel: LiveUpdate, image: Image, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    claim = carried_over(kernel, image)
    with monkeypatch.context() as patch:
        patch.setattr("pramfs.liveupdate.claim.filesystem_type", lambda device: "ext4")
        (line,) = claim.place(None, None).kept
        assert "is not a tmpfs" in line
        there = tmp_path / "there"
        assert claim.place(str(image.path), str(there)).placed
    assert is_clean(there)


def test_an_image_for_which_there_is_no_room_is_kept_whole(
    kernel: LiveUpdate, image: Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The room runs out half-way: what was moved goes back."""
    claim = carried_over(kernel, image)
    with monkeypatch.context() as patch:
        patch.setattr("pramfs.liveupdate.transfer.CHUNK_BYTES", 64 << 10)
        real, calls = os.pwrite, iter(range(1000))

        def write(descriptor: int, data: bytes, offset: int) -> int:
            if next(calls) == 3:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return real(descriptor, data, offset)

        patch.setattr("pramfs.storage.image.os.pwrite", write)
        (line,) = claim.place(None, None).kept
        assert "No space left on device" in line
    assert not image.path.exists()
    assert claim.place(None, None).placed == (f"{image.path}: clean",)


def test_a_damaged_image_is_put_back_and_the_damage_is_told(
    kernel: LiveUpdate, image: Image
) -> None:
    path = image.path
    flip(path, frames_of(path, "big")[7])
    outcome = carried_over(kernel, image).place(None, None)
    assert not outcome.placed
    (line,) = outcome.damaged
    assert line.startswith(f"{path}: damaged: ")
    assert "/big" in line
    assert path.exists()


def test_without_memory_for_its_trees_the_page_that_is_damaged_is_told(
    kernel: LiveUpdate, image: Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = image.path
    pfn = frames_of(path, "big")[7]
    flip(path, pfn)
    claim = carried_over(kernel, image)
    little = MemoryLeft(100 << 10, 1 << 30)
    monkeypatch.setattr("pramfs.liveupdate.claim.memory_left", lambda: little)
    (line,) = claim.place(None, None).damaged
    assert line.startswith(f"{path}: damaged: pfn:")
    assert line.endswith("; pramfs check says what that is of")


def test_damage_that_shows_once_is_told(
    kernel: LiveUpdate, image: Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bit of memory that flips to and fro is not sound because the second look finds nothing."""
    path = image.path
    claim = carried_over(kernel, image)
    monkeypatch.setattr("pramfs.liveupdate.claim.first_fault", lambda image: "pfn:17 corrupted")
    assert claim.place(None, None).damaged == (f"{path}: damaged: pfn:17 corrupted",)


def test_an_image_that_cannot_be_verified_now_is_kept(
    kernel: LiveUpdate, image: Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has been moved then, and has no name."""
    path = image.path
    claim = carried_over(kernel, image)
    with monkeypatch.context() as patch:
        patch.setattr("pramfs.liveupdate.claim.first_fault", fail_with(MemoryError()))
        assert claim.place(None, None).kept == (f"{path}: kept, because Cannot allocate memory",)
    assert claim.place(None, None).placed == (f"{path}: clean",)
    assert is_clean(path)


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left"), MemoryError()])
def test_an_image_that_cannot_get_its_length_is_in_its_place_all_the_same(
    kernel: LiveUpdate, image: Image, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = image.path
    claim = carried_over(kernel, image)
    monkeypatch.setattr("pramfs.pram.resize.lengthen", fail_with(error))
    (line,) = claim.place(None, None).placed
    assert line.startswith(f"{path}: clean, but no longer than what it holds: ")
    assert claim.items == []
    assert is_clean(path)


def test_what_cannot_be_moved_back_now_is_moved_back_before_the_next_try(
    kernel: LiveUpdate, image: Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pramfs.liveupdate.transfer.CHUNK_BYTES", 64 << 10)
    claim = carried_over(kernel, image)
    with monkeypatch.context() as patch:
        real, calls = os.pwrite, iter(range(1000))

        def write(descriptor: int, data: bytes, offset: int) -> int:
            if next(calls) in (3, 5):  # on the way there, and on the way back
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return real(descriptor, data, offset)

        patch.setattr("pramfs.storage.image.os.pwrite", write)
        (line,) = claim.place(None, None).kept
        assert "No space left on device" in line
    assert claim.place(None, None).placed == (f"{image.path}: clean",)


def test_an_attribute_that_is_refused_is_named_and_the_image_is_kept(
    kernel: LiveUpdate, image: Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    claim = carried_over(kernel, image)
    refusal = OSError(errno.EOPNOTSUPP, "Operation not supported")
    with monkeypatch.context() as patch:
        patch.setattr("os.setxattr", fail_with(refusal))
        (line,) = claim.place(None, None).kept
        assert "its extended attribute user.note is refused: Operation not supported" in line
    assert claim.place(None, None).placed


@pytest.mark.parametrize("number", [errno.EOPNOTSUPP, errno.EISDIR])
def test_a_file_system_that_takes_no_nameless_file_is_told(
    kernel: LiveUpdate, image: Image, tmp_path: Path, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    claim = carried_over(kernel, image)
    real = os.open

    def refuse(path: str, flags: int, *args: int, **others: int) -> int:
        if flags & os.O_TMPFILE == os.O_TMPFILE:
            raise OSError(number, os.strerror(number))
        return real(path, flags, *args, **others)

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", refuse)
        (line,) = claim.place(str(image.path), str(tmp_path / "there")).kept
    assert f"the file system of {tmp_path} has no files without a name" in line
    assert claim.place(None, None).placed


@pytest.mark.parametrize("at", [0, 40, 100, -2])
def test_a_damaged_manifest_takes_no_image_with_it(
    kernel: LiveUpdate, image: Image, tmp_path: Path, at: int
) -> None:
    path = image.path
    HandOver([image]).take()
    path.unlink()
    (tmp_path / "cmdline").write_text(f"quiet {' '.join(kept.words_for([path]))}\n")
    kernel.kexec()
    described = kernel.file(0)
    at %= os.fstat(described).st_size
    os.pwrite(described, bytes([os.pread(described, 1, at)[0] ^ 1]), at)
    session = luo.retrieve_session(handover.SESSION)
    assert session is not None
    (line,) = Claim(session, kept.unclaimed()).place(None, None).damaged
    assert line.startswith(f"{path}: clean; its owner, mode, attributes and length were damaged")
    assert path.stat().st_mode & 0o7777 == 0o600
    assert is_clean(path)


def test_a_damaged_manifest_leaves_images_that_nobody_has_named_to_be_claimed_elsewhere(
    kernel: LiveUpdate, image: Image
) -> None:
    HandOver([image]).take()
    kernel.kexec()
    kernel.fail(luo._RETRIEVE_FD, errno.ENOMEM, token=0)
    session = luo.retrieve_session(handover.SESSION)
    assert session is not None
    claim = Claim(session)
    other = image.path.with_name("other")
    assert claim.place("/dev/shm/pramfs-image-1", str(other)).damaged
    assert claim.items == []
    assert is_clean(other)


def test_an_image_that_the_kernel_does_not_give_back_is_said_to_be_lost_once(
    kernel: LiveUpdate, image: Image
) -> None:
    path = image.path
    other = make_image(path.with_name("other"))
    with open_image(other, writable=True) as second:
        HandOver([image, second]).take()
    path.unlink()
    other.unlink()
    kernel.kexec()
    kernel.fail(luo._RETRIEVE_FD, errno.ENOMEM, token=1)
    session = luo.retrieve_session(handover.SESSION)
    assert session is not None
    claim = Claim(session)
    outcome = claim.place(None, None)
    assert outcome.kept == (f"{path}: lost: /dev/liveupdate: out of memory",)
    assert outcome.placed == (f"{other}: clean",)
    assert claim.items == []


def fail_with(error: Exception) -> Callable[..., None]:
    def fail(*_: object) -> None:
        raise error

    return fail


# --- commands and keepers -------------------------------------------------------------------------


def test_a_keeper_has_the_image_until_it_is_told_to_give_it_back(
    kernel: LiveUpdate, image: Image, capsys: pytest.CaptureFixture[str]
) -> None:
    with handover.handed_over([image]):
        pass
    try:
        with pytest.raises(HandedOver, match="kexec --undo"):
            loader.open_and_lock(image.path, parse_options(["ro"]))
        assert main(["claim"]) != 0
        assert "handed over to the next kernel" in capsys.readouterr().err
    finally:
        assert main(["kexec", "--undo"]) == 0
    assert capsys.readouterr().out == f"{image.path}: taken back\n"
    assert is_clean(image.path)
    assert image.path.stat().st_size == FRAMES << 12
    fcntl.flock(image.fileno(), fcntl.LOCK_UN)
    loader.open_and_lock(image.path, parse_options(["ro"])).close()


def test_a_keeper_that_cannot_be_forked_is_told_by_one_process(
    kernel: LiveUpdate, image: Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It takes two forks, and the second one fails in a process that has nothing else to do."""
    command, fork, calls = os.getpid(), os.fork, iter(range(10))

    def fail_second() -> int:
        if next(calls) == 1:
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        return fork()

    monkeypatch.setattr(os, "fork", fail_second)
    try:
        with pytest.raises(PramError, match="Resource temporarily unavailable"):
            handover.handed_over([image]).__enter__()
    finally:
        if os.getpid() != command:
            os._exit(1)
    assert is_clean(image.path)


def test_the_image_is_given_back_when_loading_fails(kernel: LiveUpdate, image: Image) -> None:
    with pytest.raises(PramError, match="no kernel"), handover.handed_over([image]):
        raise PramError("no kernel")
    assert not kept.is_kept()
    assert image.path.stat().st_size == FRAMES << 12


def test_a_command_that_is_killed_before_the_kernel_is_loaded_leaves_nothing_behind(
    kernel: LiveUpdate, image: Image
) -> None:
    child = os.fork()
    if not child:
        with handover.handed_over([image]):
            os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)
    while kept.is_kept():
        pass
    assert image.path.stat().st_size == FRAMES << 12
    assert is_clean(image.path)


def test_a_kernel_is_not_said_to_be_loaded_when_the_images_were_to_be_taken_back_meanwhile(
    kernel: LiveUpdate, image: Image
) -> None:
    def load() -> None:
        with handover.handed_over([image]):
            state = kept.read_state()
            assert state is not None
            os.kill(state.pid, signal.SIGTERM)  # as `take_back` does

    with pytest.raises(PramError, match="taken back meanwhile, by: pramfs kexec --undo"):
        load()
    assert not kept.is_kept()
    assert image.path.stat().st_size == FRAMES << 12
    assert is_clean(image.path)


@pytest.mark.parametrize("refused", ["handing over", "loading"])
def test_a_keeper_keeps_a_moved_image_that_it_cannot_take_back_yet(
    kernel: LiveUpdate, image: Image, refused: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is no room for its state either. The command says so, and does not wait for better times."""
    monkeypatch.setattr(handover, "_available_bytes", lambda: 0)
    write_state, calls, tries = kept.write_state, iter(range(100)), iter(range(100))

    def write(state: State) -> None:
        if next(calls) > 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write_state(state)

    def unload() -> None:
        if next(tries) < 1:
            raise PramError("not now")

    monkeypatch.setattr(kept, "write_state", write)
    monkeypatch.setattr(kexec, "unload", unload)
    if refused == "handing over":
        kernel.fail(luo._PRESERVE_FD, errno.ENOMEM)
    with (
        pytest.raises(PramError, match=r"cannot take back .*: not now"),
        handover.handed_over([image]),
    ):
        raise PramError("no kernel")
    state = kept.read_state()
    assert state is not None
    os.kill(state.pid, signal.SIGTERM)
    while kept.is_kept():
        pass
    assert image.path.stat().st_size == FRAMES << 12
    assert is_clean(image.path)


def test_no_kernel_is_loaded_when_the_command_that_was_loading_it_is_killed(
    kernel: LiveUpdate, image: Image, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The program that loads it goes on, and is not killed with the command."""
    loaded, started, go = (tmp_path / name for name in ("loaded", "started", "go"))
    loaded.write_text("0\n")
    monkeypatch.setattr(kexec, "_LOADED", loaded)
    monkeypatch.setattr(kexec, "_DYNAMIC_DEBUG", tmp_path / "none")
    monkeypatch.setattr(kexec, "_KERNEL_LOG", loaded)
    tool = tmp_path / "kexec"
    tool.write_text(
        f"#!/bin/sh\n[ $2 = -u ] && exec sh -c 'echo 0 >{loaded}'\n"
        f"touch {started}\nuntil [ -e {go} ]; do sleep 0.02; done\necho 1 >{loaded}\n"
    )
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    plan = kexec.Plan([], [image], Path("/boot/vmlinuz-1"), Path("/boot/initrd.img-1"), "quiet")
    child = os.fork()
    if not child:
        with handover.handed_over([image]) as handed:
            kexec.load(plan, [handed.descriptor])
    while not started.exists():
        pass
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    threading.Timer(0.2, go.touch).start()
    while kept.is_kept():
        pass
    assert go.exists()
    assert loaded.read_text() == "0\n"
    assert is_clean(image.path)


@pytest.mark.parametrize("name", ["image", "./image", "link"])
def test_an_image_is_known_by_its_own_path_however_it_is_named(
    kernel: LiveUpdate, tmpfs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    path = make_image(tmpfs / "image")
    monkeypatch.chdir(tmpfs)
    if name == "link":
        name = str(tmp_path / "link")
        Path(name).symlink_to(path)
    tool = tmp_path / "kexec"
    tool.write_text(f"#!/bin/sh\necho $* >{tmp_path}/line\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setattr(kexec, "_DYNAMIC_DEBUG", tmp_path / "none")
    monkeypatch.setattr(kexec, "_KERNEL_LOG", tool)
    tells, told_by = os.pipe()

    def write(carried: Manifest) -> int:
        os.write(told_by, carried.images[0].path.encode())
        return os.dup(told_by)

    monkeypatch.setattr(manifest, "write", write)
    words = ["kexec", "--load-only", "--kernel", str(tool), "--initrd", str(tool), name]
    assert main(words) == 0
    try:
        assert os.read(tells, 4096).decode() == str(path)
        state = kept.read_state()
        assert state is not None
        assert state.images[0].path == str(path)
        assert f"pramfs.claim={path}" in (tmp_path / "line").read_text().split()
        with pytest.raises(HandedOver):
            loader.open_and_lock(path, parse_options(["ro"]))
    finally:
        handover.take_back()
        os.close(tells)
        os.close(told_by)


@pytest.mark.parametrize("can_undo", [True, False])
def test_a_kernel_that_does_not_start_is_told_and_the_image_taken_back(
    kernel: LiveUpdate,
    image: Image,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    can_undo: bool,
) -> None:
    tool = tmp_path / "kexec"
    tool.write_text("#!/bin/sh\n[ $1 != -e ] || { echo not today >&2; exit 1; }\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setattr(kexec, "_DYNAMIC_DEBUG", tmp_path / "none")
    monkeypatch.setattr(kexec, "_KERNEL_LOG", tool)
    path = make_image(image.path.with_name("other"))
    take_back = handover.take_back
    if not can_undo:
        monkeypatch.setattr(handover, "take_back", fail_with(PramError("not now")))
    assert main(["kexec", "--kernel", str(tool), "--initrd", str(tool), str(path)]) == 32
    told = "kexec failed: not today" if can_undo else "kexec failed: not today; not now"
    assert capsys.readouterr().err == f"pramfs: {told}\n"
    if not can_undo:
        take_back()
    assert is_clean(path)


def test_a_second_hand_over_is_refused_with_the_reason(
    kernel: LiveUpdate, image: Image, tmp_path: Path
) -> None:
    other = make_image(image.path.with_name("other"))
    with open_image(other, writable=True) as second:
        with handover.handed_over([image]):
            pass
        with (
            pytest.raises(PramError, match=f"{image.path}: handed over to the next"),
            handover.handed_over([second]),
        ):
            pytest.fail("it was handed over")
        handover.take_back()
        # Nor are images given to the next kernel while some of the last one are here.
        assert handed_to_the_next_kernel(kernel, image, tmp_path) == image.path
        image.path.write_text("another")
        assert main(["claim"]) == 32
        with pytest.raises(PramError, match="is there already"), handover.handed_over([second]):
            pytest.fail("it was handed over")
        image.path.unlink()
        assert main(["claim"]) == 0


@pytest.mark.parametrize("name", ["two\nlines", "with \x1b[31mcolour", "no\udcffutf"])
def test_the_plan_shows_a_strange_name_in_one_line(
    kernel: LiveUpdate, tmpfs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    path = make_image(tmpfs / name)
    file = tmp_path / "vmlinuz-1"
    file.touch()
    words = ["kexec", "--dry-run", "--kernel", str(file), "--initrd", str(file), str(path)]
    assert main(words) == 0
    told = capsys.readouterr().out
    assert [line.partition(":")[0] for line in told.splitlines()] == [
        *("image", "memory", "kernel", "initrd", "command")
    ]
    assert "\x1b" not in told


def test_claiming_is_done_by_a_keeper_which_ends_when_all_is_in_its_place(
    kernel: LiveUpdate, image: Image, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = image.path
    HandOver([image]).take()
    (word,) = kept.words_for([path])
    kernel.kexec()
    (tmp_path / "cmdline").write_text(f"quiet {word}\n")
    assert main(["claim", "--list"]) == 0
    assert "not claimed yet" in capsys.readouterr().out
    with pytest.raises(NotClaimed, match="first: pramfs claim"):
        loader.open_and_lock(path, parse_options([]))

    assert main(["claim"]) == 32  # the old file is still there
    assert f"{path}: kept, because {path} is there already" in capsys.readouterr().err
    assert main(["claim", "--list"]) == 0
    assert f"{path} is there already" in capsys.readouterr().out
    with pytest.raises(PramError, match="see: pramfs claim --list"):
        loader.open_and_lock(path, parse_options([]))

    path.unlink()
    assert main(["claim", "--to", "elsewhere"]) == 1
    assert main(["claim", str(path.with_name("other"))]) == 32
    assert "no image of that path is kept" in capsys.readouterr().err
    assert main(["claim"]) == 0
    assert capsys.readouterr().out == f"{path}: clean\n"
    while kept.is_kept():
        pass
    assert main(["claim", "--list"]) == 0
    assert capsys.readouterr().out == ""
    loader.open_and_lock(path, parse_options([])).close()


def handed_to_the_next_kernel(kernel: LiveUpdate, image: Image, tmp_path: Path) -> Path:
    """The image, of which the next kernel's command line tells; returns its path."""
    HandOver([image]).take()
    image.path.unlink()
    kernel.kexec()
    (tmp_path / "cmdline").write_text(f"quiet {' '.join(kept.words_for([image.path]))}\n")
    return image.path


def test_claims_at_the_same_time_put_the_image_back_once_and_none_fails(
    kernel: LiveUpdate, image: Image, tmp_path: Path
) -> None:
    path = handed_to_the_next_kernel(kernel, image, tmp_path)
    ready, go = os.pipe()
    children = []
    for _ in range(6):
        child = os.fork()
        if not child:
            os.close(go)
            os.read(ready, 1)
            os._exit(main(["claim"]))
        children.append(child)
    os.close(ready)
    os.close(go)
    assert [os.waitpid(child, 0)[1] for child in children] == [0] * 6
    assert is_clean(path)


def test_a_claim_that_is_killed_as_it_gets_the_session_goes_on(
    kernel: LiveUpdate, image: Image, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = handed_to_the_next_kernel(kernel, image, tmp_path)
    child = os.fork()
    if not child:
        command = os.getpid()
        kernel.on_retrieval = lambda: os.kill(command, signal.SIGKILL)
        os._exit(main(["claim"]))
    assert os.waitpid(child, 0)[1] == signal.SIGKILL
    assert main(["claim"]) == 0
    assert capsys.readouterr().out == f"{path}: clean\n"


def test_a_keeper_that_nobody_could_ask_does_not_get_the_images(
    kernel: LiveUpdate, image: Image, tmp_path: Path
) -> None:
    path = handed_to_the_next_kernel(kernel, image, tmp_path)
    in_the_way = kept.DIRECTORY / "socket"
    in_the_way.mkdir(parents=True)
    assert main(["claim"]) != 0
    with pytest.raises(NotClaimed):
        kept.refuse_if_kept(path)
    in_the_way.rmdir()
    assert main(["claim"]) == 0
    assert is_clean(path)


def test_a_keeper_goes_on_when_it_cannot_be_asked_for_a_while(
    kernel: LiveUpdate, image: Image, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = handed_to_the_next_kernel(kernel, image, tmp_path)
    real, calls = socket.socket.accept, iter(range(1000))

    def accept(self: socket.socket) -> tuple[socket.socket, object]:
        if next(calls) < 2:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return real(self)

    monkeypatch.setattr(socket.socket, "accept", accept)
    assert main(["claim"]) == 0
    assert is_clean(path)


def test_images_of_a_keeper_that_was_killed_are_told_to_be_lost_once(
    kernel: LiveUpdate, image: Image, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = handed_to_the_next_kernel(kernel, image, tmp_path)
    path.write_text("another")
    assert main(["claim"]) == 32
    state = kept.read_state()
    assert state is not None
    os.kill(state.pid, signal.SIGKILL)
    while kept.is_kept():
        pass
    capsys.readouterr()
    assert main(["claim"]) == 32
    assert f"lost: {path}" in capsys.readouterr().err
    assert main(["claim"]) == 0
    kept.refuse_if_kept(path)


def test_who_looks_for_a_keeper_keeps_none_from_starting(kernel: LiveUpdate) -> None:
    lock = kept.try_to_lock()
    assert lock is not None
    os.close(lock)
    looking = os.open(kept.DIRECTORY / "lock", os.O_RDWR)
    fcntl.flock(looking, fcntl.LOCK_SH)
    timer = threading.Timer(0.1, os.close, [looking])
    timer.start()
    lock = kept.try_to_lock()
    timer.join()
    assert lock is not None
    os.close(lock)


def test_nothing_to_claim_is_no_error(kernel: LiveUpdate) -> None:
    assert main(["claim"]) == 0


@pytest.mark.parametrize("words", [["image"], ["--to", "there", "image"]])
def test_an_image_that_was_asked_for_and_has_not_come_is_named(
    kernel: LiveUpdate, tmpfs: Path, capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    assert main(["claim", *words]) == 32
    assert "image: no image of that path is kept" in capsys.readouterr().err


def test_images_that_have_not_come_over_are_named_and_their_paths_are_free_again(
    kernel: LiveUpdate, tmpfs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmpfs / "image with blanks, and commas"
    (tmp_path / "cmdline").write_text(f"quiet {' '.join(kept.words_for([path]))}\n")
    assert main(["claim"]) == 32
    told = capsys.readouterr().err
    assert f"nothing came over from the last kernel; lost: {path}" in told
    assert kept.unclaimed() == []
    kept.refuse_if_kept(path)


def test_a_device_that_is_in_use_leaves_the_images_to_be_claimed_later(
    kernel: LiveUpdate, tmpfs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmpfs / "image"
    (tmp_path / "cmdline").write_text(f"quiet {' '.join(kept.words_for([path]))}\n")
    kernel.fail(luo._RETRIEVE_SESSION, errno.EBUSY)
    assert main(["claim"]) == 32
    assert capsys.readouterr().err.count("in use by another program") == 1
    with pytest.raises(NotClaimed):
        kept.refuse_if_kept(path)


@pytest.mark.parametrize("words", [["claim"], ["kexec", "--undo"]])
def test_only_root_may(
    words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert main(words) == 1
    assert "root is needed" in capsys.readouterr().err


# --- what the kernel refuses ----------------------------------------------------------------------


def test_a_kernel_without_live_update_and_one_where_it_is_off_are_told_apart(
    kernel: LiveUpdate, tmp_path: Path
) -> None:
    luo.DEVICE.unlink()
    with pytest.raises(LiveUpdateRefused, match="CONFIG_LIVEUPDATE"):
        luo.require()
    (tmp_path / "cmdline").write_text("quiet kho=on\n")
    with pytest.raises(LiveUpdateRefused, match="start the kernel with kho=on liveupdate=on"):
        luo.require()


def test_a_session_that_is_there_already_is_refused(kernel: LiveUpdate) -> None:
    os.close(luo.create_session("one"))
    with pytest.raises(LiveUpdateRefused, match="there is a session 'one' already"):
        luo.create_session("one")


def test_a_session_can_be_retrieved_once(kernel: LiveUpdate) -> None:
    os.close(luo.create_session("one"))
    kernel.kexec()
    assert luo.retrieve_session("two") is None
    session = luo.retrieve_session("one")
    assert session is not None
    with pytest.raises(LiveUpdateRefused, match="another process has the session 'one'"):
        luo.retrieve_session("one")
    os.close(session)
    assert luo.retrieve_session("one") is None, "it is given up"


def test_the_claim_of_a_session_that_another_has_had_says_so(
    kernel: LiveUpdate, image: Image
) -> None:
    HandOver([image]).take()
    kernel.kexec()
    assert luo.retrieve_session(handover.SESSION) is not None
    with pytest.raises(PramError, match="another process has the session"):
        claim.claim(None, None)
