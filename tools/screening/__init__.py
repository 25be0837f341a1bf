"""The recipe of the shipped screening model: examples, training, calibration, card. Run by a maintainer, never by a node."""
