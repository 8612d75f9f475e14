"""The quality of explanations: tables over methods and sparsities, against chance, with p-values.

It imports ``evaluation`` (for charts), ``decomposition`` and everything below.
"""

from sith_hf.fidelity.compare import COHERENCE_WEIGHTS, SPARSITIES, fidelity_table, grid
from sith_hf.fidelity.figure import check_plot, fidelity_chart
from sith_hf.fidelity.table import FidelityTable, vectors_csv

__all__ = [
    "COHERENCE_WEIGHTS",
    "FidelityTable",
    "SPARSITIES",
    "check_plot",
    "fidelity_chart",
    "fidelity_table",
    "grid",
    "vectors_csv",
]
