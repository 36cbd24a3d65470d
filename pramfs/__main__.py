"""`python -m pramfs` is `pramfs`."""

import sys

from pramfs.cli import main

sys.exit(main())
