"""Talk to a running mount, from outside and from inside: its attributes, its run directory, its end.

Not for serving it (`daemon`), nor for images that are not mounted (`offline`). May import `tree`,
`pram`, `storage`, `system` and `errors`.
"""
