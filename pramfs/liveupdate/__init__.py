"""Carry images over a kexec as memory, by the kernel's Live Update Orchestrator.

In the old kernel a keeper hands them over, in the new one another puts them back under their names. Not for
loading a kernel (`offline.kexec`). May import everything but `cli`, `daemon` and `fuse`.
"""
