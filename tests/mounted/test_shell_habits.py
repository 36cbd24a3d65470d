"""What administrators do to mounts that nobody thinks of: over the image, moved, bound, hidden."""

from pathlib import Path

from tests.mounted.shell import Shell


def test_a_mount_may_hide_its_own_image(shell: Shell, root: Path) -> None:
    image = root / "image"
    shell.run("mount", "-t", "pramfs", "-o", "size=16M", image, root).succeeded()
    shell.run("touch", root / "file").succeeded()
    assert shell.status(root)["image"] == str(image)
    shell.pramfs("save", root).succeeded()
    assert f"saved to {image}" in shell.run("umount", root).succeeded().text
    assert shell.pramfs("ls", image).succeeded().text.split()[-1] == "file"
