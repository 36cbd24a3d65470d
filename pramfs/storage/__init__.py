"""The frames of one image: the format, the backing store, and who holds each frame.

Not for what pages mean: nodes and links are in `pram`, files in `tree`. May import
`system` and `errors`.
"""
