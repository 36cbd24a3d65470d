"""Empty: the code is in tests/vm and tests/kexec. Only keeps a directory that type checks ask for."""
