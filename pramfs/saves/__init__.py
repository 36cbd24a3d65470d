"""Save trees to nodes, and load them back.

Not for when to save (`daemon`), nor for reading without mounting (`offline`). May import `tree`,
`pram`, `storage`, `system` and `errors`.
"""
