"""What Linux is asked: mount table, mount(8), physical memory, kexec, child processes, terminals.

Not for files, nor for running mounts (`control`). May import `storage` and `errors`.
"""
