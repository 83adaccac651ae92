"""Whether two tickets are the same: masks against chance, weights up to symmetry, and the line between them."""
