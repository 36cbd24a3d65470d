"""Processes over a change of kernel: dumped into a mount by CRIU before it, restored after it.

Not for the kexec itself, see `offline.kexec`: `pramfs kexec --checkpoint` puts the two together.
"""
