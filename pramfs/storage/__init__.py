"""The frames of one image: the format and its version (`layout`), the backing store, who holds each frame.

Not for what pages mean: nodes and links are in `pram`, files in `tree`. May import
`system` and `errors`.
"""
