"""The commands of `pramfs`, in groups."""
