"""How objects move, at what pace, and how they are stopped and gone on with."""
