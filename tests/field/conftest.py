"""Field reports as tests: what broke for people, each as somebody met it."""

from tests.mounted.conftest import home, image, medium, new_volume, root, shell, volume

__all__ = ["home", "image", "medium", "new_volume", "root", "shell", "volume"]
