"""Images without mounting them: check, draw, copy files out, keep them over a kexec.

Not for changing an image, nor for what people type and read (`cli`). May import everything but
`cli`, `daemon` and `fuse`.
"""
