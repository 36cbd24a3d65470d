"""Trees to nodes, and nodes to trees."""
