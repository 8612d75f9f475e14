"""The quality of explanations: tables over methods and sparsities, against chance, with p-values.

It imports ``evaluation`` (for charts), ``decomposition`` and everything below.
"""

from sith_hf.fidelity.compare import fidelity_table, grid
from sith_hf.fidelity.figure import check_plot, fidelity_chart
from sith_hf.fidelity.null import NULLS, adjusted, null_directions, p_values
from sith_hf.fidelity.table import FidelityTable, MethodQuality

__all__ = [
    "FidelityTable",
    "MethodQuality",
    "NULLS",
    "adjusted",
    "check_plot",
    "fidelity_chart",
    "fidelity_table",
    "grid",
    "null_directions",
    "p_values",
]
