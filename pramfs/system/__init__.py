"""What Linux is asked: mount table, mount(8), physical memory, child processes, terminals.

Not for images (`storage`), nor for running mounts (`control`). May import `errors` only.
"""
