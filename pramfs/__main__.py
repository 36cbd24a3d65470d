"""Run the command `pramfs` as `python -m pramfs`."""

import sys

from pramfs.cli.entry import pramfs

sys.exit(pramfs())
