"""Images without mounting them: check, search, draw, and copy files out.

Not for changing an image, nor for what people type and read (`cli`). May import everything but
`cli`, `daemon` and `fuse`.
"""
