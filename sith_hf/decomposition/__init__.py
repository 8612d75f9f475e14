"""From the weights of a tower to explained singular vectors: SVD, ``decompose``, ``Decomposition``, ``Explanation``.

It imports ``concepts``, ``pursuit``, ``towers`` and what those import.
"""

from sith_hf.decomposition.decompose import check_settings, decompose
from sith_hf.decomposition.decomposition import DECOMPOSITION_LAYOUT, NEAR, Decomposition
from sith_hf.decomposition.explanation import Explanation, Match, concepts_text, explanation_rows, match_rows
from sith_hf.decomposition.measure import Quality, measure_explanations, quality_of
from sith_hf.decomposition.svd import HeadSVD, check_rank, factored_svd

__all__ = [
    "DECOMPOSITION_LAYOUT",
    "Decomposition",
    "Explanation",
    "HeadSVD",
    "Match",
    "NEAR",
    "Quality",
    "check_rank",
    "check_settings",
    "concepts_text",
    "decompose",
    "explanation_rows",
    "factored_svd",
    "match_rows",
    "measure_explanations",
    "quality_of",
]
