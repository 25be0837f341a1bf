"""Blocks and their names: pure codecs, strict in both directions."""
