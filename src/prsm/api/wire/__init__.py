"""The wire formats of the edge: pure translation between bytes and the domain; no socket, no clock, no randomness."""
