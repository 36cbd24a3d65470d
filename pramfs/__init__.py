"""pramfs: a FUSE filesystem whose files stay in memory over a restart of its daemon or of the kernel."""

__version__ = "0.1.0"
