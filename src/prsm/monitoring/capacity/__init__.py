"""How much a node carries, how much it could, and when something is used up."""
