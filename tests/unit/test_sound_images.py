"""Whether an image is sound, without loading its trees: `is_sound` and `check_image` agree on every page."""

from pathlib import Path

import pytest

from pramfs.errors import PramError
from pramfs.offline.check import check_image, is_sound
from pramfs.storage import superblock
from pramfs.storage.image import Image, open_image
from pramfs.storage.layout import PAGE_SIZE
from tests.support.image_files import make_image


@pytest.fixture
def image(tmp_path: Path) -> Image:
    return open_image(make_image(tmp_path / "image"), writable=True)


def test_an_image_is_sound_unless_a_page_in_use_has_changed(image: Image) -> None:
    assert is_sound(image)
    told = {True: 0, False: 0}
    for pfn in range(image.frames):
        offset = pfn * PAGE_SIZE + 100
        before = image.read_bytes(offset, 1)
        image.write(offset, bytes([before[0] ^ 1]))
        try:
            clean = check_image(image).clean
            assert is_sound(image) == clean, f"pfn:{pfn:x}"
        finally:
            image.write(offset, before)
        told[clean] += 1
    assert min(told.values()) > 100


def test_an_image_that_was_cut_short_is_not_sound(image: Image) -> None:
    image.cut((image.frames - 1) * PAGE_SIZE)
    assert not is_sound(image)
    assert not check_image(image).clean


def test_what_accounts_for_other_frames_is_not_sound(
    image: Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    require = superblock.require

    def wrong(*args: object) -> object:
        block = require(*args)  # type: ignore[arg-type]
        return block._replace(frames_used=block.frames_used + 1)

    monkeypatch.setattr(superblock, "require", wrong)
    assert not is_sound(image)


def test_what_is_no_image_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "other"
    path.write_bytes(b"x" * 8 * PAGE_SIZE)
    with open_image(path, writable=True) as other, pytest.raises(PramError, match="not a pram"):
        is_sound(other)
