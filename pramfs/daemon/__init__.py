"""The life of a daemon: load, mount, serve, save, end."""
