"""The commands of `pramfs`, in groups: each adds its own to the parser.

Not for doing the work. May import everything but `cli.main`, and only inside functions what loads long.
"""
