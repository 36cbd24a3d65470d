"""The life of a daemon: load an image, mount it, serve, save, end; its log and its service manager.

Not for operations on files (`fuse`), nor for talking to a daemon from outside (`control`). May
import everything but `cli`.
"""
