"""The command line: commands, mount helpers, help, manual pages and completion.

Not for the work itself, which the other packages do without a terminal. May import everything.
"""
