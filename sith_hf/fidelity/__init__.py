"""How good explanations are: fidelity and coherence over methods and sparsities, and how far both are above chance."""

from sith_hf.decomposition.measure import Quality, measure, quality_of
from sith_hf.fidelity.compare import fidelity_table, grid
from sith_hf.fidelity.null import NULLS, adjusted, null_directions, null_fidelities, p_values
from sith_hf.fidelity.table import FidelityTable, MethodQuality

__all__ = [
    "NULLS",
    "FidelityTable",
    "MethodQuality",
    "Quality",
    "adjusted",
    "fidelity_table",
    "grid",
    "measure",
    "null_directions",
    "null_fidelities",
    "p_values",
    "quality_of",
]
