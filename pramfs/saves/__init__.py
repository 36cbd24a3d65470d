"""Trees to the streams of a node, and back.

Not for when to save (`daemon`), nor for reading without mounting (`offline`). May import `tree`,
`pram`, `storage`, `system` and `errors`.
"""
