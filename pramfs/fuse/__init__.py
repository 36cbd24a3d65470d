"""The FUSE adapter of a tree and the loop that serves it, which alone know of pyfuse3.

Not for what an operation does (`tree`), nor for the life of the daemon (`daemon`). May import
everything but `cli`, `daemon` and `offline`.
"""
