"""From the weights of a tower to explained singular vectors: SVD, ``decompose``, ``Decomposition``, ``Explanation``."""
