"""The kexec scenario in a virtual machine: build the guest, drive it, tell the story."""
