"""How long a fleet takes to have its processes back from a store: what `scripts/fleet-model` runs.

Not part of the `pramfs` package, and importing nothing from it. docs/scale.md says what comes out.
"""
