"""`python -m pramfs` is `pramfs`."""

import sys

from pramfs.cli.entry import pramfs

sys.exit(pramfs())
