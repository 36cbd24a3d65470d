"""What Linux is asked: the mount table, mount(8), physical memory, kexec, children, terminals."""
