"""The shell that an administrator has is the mounted tests'."""

from tests.mounted.conftest import shell

__all__ = ["shell"]
