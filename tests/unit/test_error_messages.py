"""Every error is one clear line, with the errno and the exit code that its kind has."""

import errno
import inspect

import pytest

from pramfs import errors
from pramfs.errors import PramError

CLASSES = [
    cls
    for _, cls in inspect.getmembers(errors, inspect.isclass)
    if issubclass(cls, PramError) and cls.__module__ == "pramfs.errors"
]


@pytest.mark.parametrize("cls", CLASSES)
def test_an_error_has_a_template_an_errno_and_an_exit_code(cls: type[PramError]) -> None:
    assert cls.__doc__
    assert cls.__dict__.get("errno", errno.EINVAL) in errno.errorcode
    assert cls.exit_code in (
        errors.EXIT_USAGE,
        errors.EXIT_SYSTEM,
        errors.EXIT_INTERNAL,
        errors.EXIT_FAILED,
        errors.EXIT_UNKNOWN,
    )


@pytest.mark.parametrize(
    ("error", "number", "message"),
    [
        (errors.NoSuperBlock("none found"), errno.ENODEV, "no super block: none found"),
        (
            errors.NameTooLong("n", 300, 255),
            errno.ENAMETOOLONG,
            "node name 'n' is too long: 300 bytes, at most 255",
        ),
        (errors.NoFrames(4, 2), errno.ENOSPC, "no free frames: 4 needed, 2 available"),
        (errors.NodeExists("n"), errno.EEXIST, "node 'n' already exists"),
        (errors.NoSuchNode("n"), errno.ENOENT, "no node 'n'"),
        (errors.NodeBusy("n"), errno.EBUSY, "node 'n' is being saved or loaded"),
        (
            errors.WrongStreamType("n", "page stream", "byte stream"),
            errno.EPERM,
            "node 'n' is a page stream, not a byte stream",
        ),
        (
            errors.DamagedPage(0x2A, "node 'n'"),
            errno.EFAULT,
            "pfn:2a corrupted: the data page fails its checksum (node 'n')",
        ),
        (errors.InvalidPfn(0x2A, "link"), errno.EINVAL, "pfn:2a invalid (link)"),
        (errors.CorruptedPage(0x2A, "node"), errno.EINVAL, "pfn:2a corrupted (node)"),
        (errors.BusyPfn(0x2A, "link"), errno.EBUSY, "pfn:2a busy (link)"),
        (
            errors.SaveFailed(OSError(errno.EIO, "Input/output error", "/image"), 7),
            errno.EIO,
            "save failed: Input/output error; the previous save (generation 7) stands",
        ),
    ],
)
def test_a_message_has_the_words_and_the_number_of_the_seeds(
    error: PramError, number: int, message: str
) -> None:
    assert (error.errno, str(error)) == (number, message)


def test_a_failed_reservation_says_so_and_keeps_the_number_of_its_cause() -> None:
    cause = errors.BusyPfn(0x2A, "link")
    failure = errors.ReservationFailed(cause)
    assert str(failure) == "Reservation failed: pfn:2a busy (link)"
    assert failure.errno == errno.EBUSY


def test_a_message_is_one_line_whatever_is_put_into_it() -> None:
    assert str(PramError("two\nlines  and {braces}")) == "two\\nlines  and {braces}"
