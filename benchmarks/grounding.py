"""Do words and images agree? The agreement of ``sith-hf ground`` for every pole of the embedded checkpoint.

The control gives each pole the words of another one. It shows what the p-value does not say: it is about images, of
which the strongest share something, and words that have nothing to do with a pole may still go with that.

    python benchmarks/grounding.py
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from sith_hf.concepts import ConceptDictionary
from sith_hf.decomposition import Decomposition
from sith_hf.editor import SithEditor
from sith_hf.files import ResumableJob
from sith_hf.grounding import agreement, chosen_vectors
from sith_hf.grounding.strongest import StrongestImages, strongest_images
from sith_hf.grounding.view import View
from sith_hf.images import BASE, DatasetSettings, images_named, model_variants, open_dataset, ready
from sith_hf.world import concepts, embedded_checkpoint

Pole = tuple[int, tuple[int, int, int], str]

SOURCES = {"pictures": DatasetSettings(world="balanced", seed=2100, pictures=400), "leaves": images_named("leaves")}


def found_in(editor: SithEditor, data: DatasetSettings) -> tuple[StrongestImages, list[Pole]]:
    """Return the strongest images of all vectors, and their poles: number of the vector, vector, pole."""
    vectors = chosen_vectors(editor.decomposition, top=10_000)
    (variant,) = model_variants(editor, {BASE: None})
    device = torch.device("cpu")
    with ready([variant], device):
        view, source = View.of(variant, device), open_dataset(data)
        found = strongest_images(
            editor, editor.decomposition, vectors, source, view, batch_size=32, job=ResumableJob(), progress=False
        )
    return found, [(number, vector, pole) for number, vector in enumerate(vectors) for pole in "+-"]


def direction(decomposition: Decomposition, pole: Pole) -> Tensor:
    """Return the weighted sum of the concepts of a pole, ``[P]``."""
    place = (*decomposition.place(*pole[1]), decomposition.poles.index(pole[2]))
    weight, concept = decomposition.weight[place], decomposition.concept[place]
    return weight[concept >= 0].double() @ decomposition.atoms[concept[concept >= 0]].double()


def agreements(found: StrongestImages, poles: Sequence[Pole], words: Sequence[Tensor]) -> Iterator[tuple[float, float]]:
    """Yield AUC and p-value of each pole."""
    kept = found.found
    for (number, _, pole), own in zip(poles, words, strict=True):
        top = kept.strongest(number, pole)
        scores = {key: float(kept.images[key].embedding.double() @ own) for key in {*top, *kept.random}}
        made = agreement([scores[key] for key in top], [scores[key] for key in kept.random if key not in set(top)])
        yield made.auc, made.p_value


def main() -> None:
    """Print one line of JSON for each source of images, kind of words and layer."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.parse_args()
    editor = SithEditor.from_pretrained(embedded_checkpoint())
    explained = editor.decompose(ConceptDictionary.from_texts(concepts()))
    beyond = explained.beyond_chance()
    assert beyond is not None
    for source, data in SOURCES.items():
        found, poles = found_in(editor, data)
        words = [direction(explained, pole) for pole in poles]
        order = np.random.default_rng(0).permutation(len(words))
        sure = [bool(beyond[(*explained.place(*v), explained.poles.index(p))]) for _, v, p in poles]
        for kind, given in (("own", words), ("of another pole", [words[n] for n in order])):
            measured = list(agreements(found, poles, given))
            for layer in explained.layers:
                here = [n for n, (_, vector, _) in enumerate(poles) if vector[0] == layer]
                of = {"all poles": here, "beyond chance": [n for n in here if sure[n]]}
                figures = {
                    name: {
                        "poles": len(chosen),
                        "AUC": round(float(np.mean([measured[n][0] for n in chosen])), 3),
                        "p <= 0.05": round(float(np.mean([measured[n][1] <= 0.05 for n in chosen])), 3),
                    }
                    for name, chosen in of.items()
                    if chosen
                }
                print(json.dumps({"images": source, "words": kind, "layer": layer, **figures}))


if __name__ == "__main__":
    main()
