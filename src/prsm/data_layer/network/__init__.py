"""Where blocks come from and go to."""
