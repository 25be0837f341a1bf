"""What the node is to keep, read from one file: objectives, and levels of parts that are to be told of."""
