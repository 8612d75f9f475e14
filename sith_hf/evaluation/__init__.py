"""Tasks, metrics, bootstrap intervals, results, sweeps and charts: variants of a model side by side on the same images.

It imports ``images``, ``edits`` and everything below. ``metric_classes`` has the metrics as ``evaluate.Metric``.
"""

from sith_hf.evaluation.answer import answers
from sith_hf.evaluation.charts import worst_against_average
from sith_hf.evaluation.edit_effect import image_options, leaves, measure_effect, names_concepts, unmeasurable
from sith_hf.evaluation.held_task import HeldTask, Labelled, hold_tasks
from sith_hf.evaluation.label_probabilities import Temperature
from sith_hf.evaluation.plan import Plan, Task, ZeroShot
from sith_hf.evaluation.result import Evaluation
from sith_hf.evaluation.run import evaluate
from sith_hf.evaluation.sweep import Sweep, strengths, sweep
from sith_hf.evaluation.texts import check_sizes, class_embeddings

__all__ = [
    "Evaluation",
    "HeldTask",
    "Labelled",
    "Plan",
    "Sweep",
    "Task",
    "Temperature",
    "ZeroShot",
    "answers",
    "check_sizes",
    "class_embeddings",
    "evaluate",
    "hold_tasks",
    "image_options",
    "leaves",
    "measure_effect",
    "names_concepts",
    "strengths",
    "sweep",
    "unmeasurable",
    "worst_against_average",
]
