"""Read the decompositions that the paper's authors publish."""
