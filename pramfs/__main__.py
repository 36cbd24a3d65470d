"""`python -m pramfs` is `pramfs`."""

import sys

from pramfs.entry import pramfs

sys.exit(pramfs())
