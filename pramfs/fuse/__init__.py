"""The FUSE adapter of a tree, and the loop that serves it."""
