"""PRAM as a library: nodes, links, streams, reservation and publication, in frames that outlive a process.

Not for files and directories (`tree`, `saves`), nor for anything that talks to a daemon or the
kernel. May import `storage`, `system` and `errors`.
"""
