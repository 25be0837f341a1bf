"""Merkle trees of append-only logs: hashes and proofs (RFC 6962, RFC 9162), tiles and signed checkpoints (C2SP)."""
