"""What lies on this node's disk, and what the catalog says of it."""
