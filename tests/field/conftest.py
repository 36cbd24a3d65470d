"""Field reports as tests: what broke for people, each as somebody met it."""

from tests.mounted.conftest import home, new_volume, root, shell, volume

__all__ = ["home", "new_volume", "root", "shell", "volume"]
