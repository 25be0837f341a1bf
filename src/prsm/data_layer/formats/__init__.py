"""What a file of a model is by its bytes, and whether it may be used."""
