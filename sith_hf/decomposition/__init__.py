"""From the weights of a tower to explained singular vectors: SVD, ``decompose``, ``Decomposition``, ``Explanation``,
p-values, total effects, ``Drivers``.

It imports ``charts``, ``concepts``, ``towers``, ``pursuit``, ``hub``, ``files``, ``core`` and ``errors``.
"""

from sith_hf.decomposition.beside import dictionary_beside
from sith_hf.decomposition.decompose import check_joint_size, decompose, repeats
from sith_hf.decomposition.decomposition import Decomposition
from sith_hf.decomposition.drivers import Drivers
from sith_hf.decomposition.explanation import (
    WORDS,
    Explanation,
    Match,
    concepts_text,
    driven_text,
    explanation_rows,
    marked_text,
    match_rows,
    poles_label,
    silent_line,
    weighted_html,
    words_text,
)
from sith_hf.decomposition.heads import NEAR, ExplainedHeads
from sith_hf.decomposition.notebook import MOST_ROWS, Matches
from sith_hf.decomposition.p_values import adjusted, head_p_values, p_values, smallest_p
from sith_hf.decomposition.poles import ExplainedPoles
from sith_hf.decomposition.quality import Quality, measure_explanations, quality_of
from sith_hf.decomposition.settings import DecomposeSettings
from sith_hf.decomposition.significance import DRAWS, NULLS, SEED, Significance, null_directions
from sith_hf.decomposition.speaking import clearest_heads, head_sentence, speaking, word_energy
from sith_hf.decomposition.storage import DECOMPOSITION_LAYOUT
from sith_hf.decomposition.svd import HeadSVD, factored_svd
from sith_hf.decomposition.total_effect import IMAGES, TotalEffect, measure_total_effect
from sith_hf.decomposition.vectors import SingularVector, SingularVectors

__all__ = [
    "DECOMPOSITION_LAYOUT",
    "DRAWS",
    "DecomposeSettings",
    "Decomposition",
    "Drivers",
    "ExplainedHeads",
    "ExplainedPoles",
    "Explanation",
    "HeadSVD",
    "IMAGES",
    "MOST_ROWS",
    "Match",
    "Matches",
    "NEAR",
    "NULLS",
    "Quality",
    "SEED",
    "Significance",
    "SingularVector",
    "SingularVectors",
    "TotalEffect",
    "WORDS",
    "adjusted",
    "clearest_heads",
    "head_sentence",
    "speaking",
    "word_energy",
    "check_joint_size",
    "concepts_text",
    "decompose",
    "dictionary_beside",
    "driven_text",
    "explanation_rows",
    "factored_svd",
    "head_p_values",
    "marked_text",
    "match_rows",
    "measure_explanations",
    "measure_total_effect",
    "null_directions",
    "p_values",
    "poles_label",
    "quality_of",
    "repeats",
    "silent_line",
    "smallest_p",
    "weighted_html",
    "words_text",
]
