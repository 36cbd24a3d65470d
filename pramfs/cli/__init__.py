"""What people type and read: commands, mount helpers, help, manual pages and completion.

Not for doing the work, which every other package can be asked for without a terminal. May import
everything.
"""
