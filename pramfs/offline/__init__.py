"""Use images without mounting them: check, draw, copy files out, keep them over a kexec.

Not for changing an image, nor for the command line (`cli`). May import everything but
`cli`, `daemon` and `fuse`.
"""
