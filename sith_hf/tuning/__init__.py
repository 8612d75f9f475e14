"""Search thresholds, strengths, layers and the number of vectors of a recipe's edits for the best trade of its target.

It imports ``recipe`` and everything below. Optuna (the extra ``tune``) proposes the trials.
"""

from sith_hf.tuning.result import TuneResult
from sith_hf.tuning.tune import tune_recipe

__all__ = ["TuneResult", "tune_recipe"]
