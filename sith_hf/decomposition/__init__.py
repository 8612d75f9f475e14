"""From the weights of a tower to explained singular vectors: SVD, ``decompose``, ``Decomposition``, ``Explanation``.

It imports ``concepts``, ``towers``, ``pursuit``, ``hub``, ``files``, ``core`` and ``errors``.
"""

from sith_hf.decomposition.decompose import check_joint_size, decompose, repeats
from sith_hf.decomposition.decomposition import DECOMPOSITION_LAYOUT, NEAR, Decomposition
from sith_hf.decomposition.explanation import Explanation, Match, concepts_text, explanation_rows, match_rows
from sith_hf.decomposition.quality import Quality, measure_explanations, quality_of
from sith_hf.decomposition.settings import DecomposeSettings
from sith_hf.decomposition.svd import HeadSVD, factored_svd

__all__ = [
    "DECOMPOSITION_LAYOUT",
    "DecomposeSettings",
    "Decomposition",
    "Explanation",
    "HeadSVD",
    "Match",
    "NEAR",
    "Quality",
    "check_joint_size",
    "concepts_text",
    "decompose",
    "explanation_rows",
    "factored_svd",
    "match_rows",
    "measure_explanations",
    "quality_of",
    "repeats",
]
