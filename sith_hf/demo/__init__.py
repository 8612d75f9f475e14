"""The embedded checkpoint, the script that trains it, and the guided run on it (``sith-hf demo``).

It imports ``recipe`` and everything below. ``without_sith`` runs as a script without importing ``sith_hf``.
"""

from sith_hf.demo.picture import save_picture
from sith_hf.demo.report import report
from sith_hf.demo.run import run_demo

__all__ = ["report", "run_demo", "save_picture"]
