"""The parts of `scripts/bench`: the judge of every figure that docs/performance.md states.

The standard library only, so that it starts under any Python 3.11; what is measured runs in
processes of its own, under the interpreter that has pramfs's dependencies. It is not a test: it
prints verdicts, and fails only when it cannot measure.
"""
