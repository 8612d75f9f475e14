"""Open a dataset, on the Hub or on this machine, with one list of errors for texts and images.

It imports ``hub``, ``core`` and ``errors``.
"""

from sith_hf.data.faults import dataset_errors, dataset_fault, faults
from sith_hf.data.opening import columns_of, no_column, open_rows

__all__ = ["columns_of", "dataset_errors", "dataset_fault", "faults", "no_column", "open_rows"]
