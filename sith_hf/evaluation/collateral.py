"""Side effects of an edit: how far embeddings of images and classes move, and how many predictions stay the same."""

from __future__ import annotations

import numpy as np

from sith_hf.evaluation import metrics
from sith_hf.evaluation.plan import Collateral
from sith_hf.evaluation.task import TaskData, TaskRunner
from sith_hf.evaluation.task_result import TaskResult
from sith_hf.evaluation.texts import by_variant, check_sizes, class_drift, class_embeddings
from sith_hf.images import BASE


class CollateralRunner(TaskRunner[Collateral]):
    """Drift and agreement of every variant with the base; the base itself has drift 0 and agreement 1."""

    def run(self, data: TaskData) -> TaskResult:
        """Compute drifts (1 - cosine with the base's embedding) and, with classes, the agreement of predictions.

        The 95th percentile and the maximum of drifts have no interval: a bootstrap says little about extremes. If
        variants differ in their text towers, each predicts with its own embeddings of the classes, and the drift of
        classes is added.

        Raises:
            InputError: classes, and no text model.
        """
        from sith_hf.evaluation.metric_classes import ClassAccuracy, EmbeddingDrift, for_each

        task, count, base = self.task, len(data.rows), data.variants.index(BASE)
        images = data.rows.images[task.data.columns.image]
        drift = np.stack([metrics.drift(images[base], own) for own in images])
        items = {"drift": drift}
        found = for_each(EmbeddingDrift(), drift)
        drawn = data.resampled(drift, salt=f"{task.name}/drift")[:, 0]
        results = [
            data.metric(name, None, [own[name] for own in found], drawn if name == "drift, mean" else None, count)
            for name in found[0]
        ]
        if task.classes is not None:
            names, templates = task.classes, task.templates
            classes = by_variant(
                data.texts,
                lambda text: class_embeddings(text, names, templates, progress=data.progress),
                data.encoded.setdefault((names, templates), {}),
            )
            check_sizes(images, classes)
            predicted = items["prediction"] = np.stack(
                [metrics.predictions(own, texts) for own, texts in zip(images, classes, strict=True)]
            )
            found = for_each(ClassAccuracy(), predicted, {"references": predicted[base]})
            values = [own["accuracy"] for own in found]
            drawn = data.resampled(predicted == predicted[base], salt=f"{task.name}/agreement")[:, 0]
            results.append(data.metric("agreement of predictions", None, values, drawn, count))
            moved = class_drift(classes, base)
            if moved is not None:
                summaries = [metrics.drift_summary(own) for own in moved]
                for name in ("mean", "maximum"):
                    values = [own[name] for own in summaries]
                    results.append(data.metric(f"drift of classes, {name}", None, values, None, len(names)))
        return self.result(data, results, items)
