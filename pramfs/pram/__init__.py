"""PRAM itself, as a library: nodes, links, streams, reservation and publication."""
