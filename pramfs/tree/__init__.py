"""A synchronous POSIX tree in frames of an arena; no FUSE in it."""
