"""Streams of trees in places that keep them: `pramfs send --to`, `receive --from`, and their list.

A place is an object store, a directory of an ssh server, or one here. The layout in it is documented in
docs/remote.md. fsspec is loaded when a place needs it, and never for anything else.
"""
