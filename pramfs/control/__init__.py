"""Talk to a running mount, from outside and from inside."""
