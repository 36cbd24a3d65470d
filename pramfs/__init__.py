"""pramfs, a FUSE file system in memory whose files survive restarts of its daemon and of the kernel."""

__version__ = "0.1.1"
