"""Would a check have seen the bug? Mutants of a backward pass, and which checks catch them."""
