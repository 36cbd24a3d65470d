"""The parts of `scripts/demo`: a process worth keeping, a dumper that writes as CRIU does, a check.

Not part of the `pramfs` package, and importing nothing from it: the demo uses pramfs as a person
at a shell does.
"""
