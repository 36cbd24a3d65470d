"""Trees as streams of bytes, to other machines and back: `pramfs send` and `pramfs receive`.

The format is documented in docs/stream.md. Not for images as such, and needs neither FUSE nor root.
"""
