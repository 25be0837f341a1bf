"""Who published what, and from what it is derived: statements, signed and kept."""
