"""The commands of `pramfs`, in groups that add their own commands to the parser.

Not for the work itself. May import everything but `cli.main`; slow imports only inside functions.
"""
