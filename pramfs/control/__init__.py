"""Communication with a running mount, both sides: control attributes, run directory, unmount.

Not for serving it (`daemon`), nor for images that are not mounted (`offline`). May import `tree`,
`pram`, `storage`, `system` and `errors`.
"""
