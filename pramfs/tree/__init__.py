"""A complete, synchronous POSIX tree whose data lies in frames.

Not for FUSE, which adapts it (`fuse`), nor for its form in an image (`saves`). May import `pram`,
`storage`, `system` and `errors`.
"""
