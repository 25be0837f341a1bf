"""Personal data: what is held of whom and why, and how it is shown, given up and forgotten."""
