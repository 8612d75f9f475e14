"""Edits of single words, before and after: does the model stop seeing the word, and does it still see the others?

    python benchmarks/single_words.py                       # all 55 words of the embedded world, about four minutes
    python benchmarks/single_words.py --model FOLDER --concepts words.txt --data IMAGEFOLDER [--data IMAGEFOLDER ...]

For each word: ``suppress(word)`` with all defaults, and a random edit of as many vectors in the same layers. Measured
on pictures: recall of the word (zero-shot, among the names of its kind), accuracy of the other names of its kind, and
accuracy of the other kinds. Estimated from the weights: drift, and the share of the word's writing that is taken.

- A word is refused if ``suppress`` raises InputError, and warned of if ``Edit.warnings`` is not empty.
- The embedded world: each kind (objects, colours, ...) is one classification, a synonym stands in for its name. Every
  other word was used to choose the rule (seeds 11 to 13); the summary reports both halves. The default seeds are new.
- Another world: each ``--data`` is a kind, with one folder of pictures for each name. Words are the names that
  ``--concepts`` has; ``_`` in a folder's name is a space.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import options, started, surroundings
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import normalize

from sith_hf import ConceptDictionary, Decomposition, EditSpec, SithEditor, world
from sith_hf.edits import make_spec
from sith_hf.errors import InputError
from sith_hf.gains import with_baselines
from sith_hf.towers import encode_texts

TEMPLATES = ("{}", "a photo of a {}", "this is a photo of {}.")
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
BATCH = 64


@dataclass(frozen=True)
class Kind:
    """One classification: its names, their prompts, and pictures with the index of the right name.

    Attributes:
        names: the C names.
        templates: prompts with a ``{}`` for the name.
        pixels: float32 ``[N, 3, S, S]``.
        truth: int64 ``[N]``.
        words: the words to edit, with the index of the name that they mean.
    """

    names: tuple[str, ...]
    templates: tuple[str, ...]
    pixels: Tensor
    truth: NDArray[np.int64]
    words: Mapping[str, int]


def embedded_kinds(seeds: Sequence[int], pictures: int) -> dict[str, Kind]:
    """Return the kinds of the embedded world, all on the same pictures with independent attributes."""
    codes = []
    for seed in seeds:
        rng = np.random.default_rng(seed)
        columns = [rng.integers(0, len(names), pictures) for names, _ in world.TASKS.values()]
        codes.append(np.stack(columns, axis=1))
    truth = np.concatenate(codes)
    drawn = world.render(world.decode(truth), seeds[0] + 1)
    pixels = torch.from_numpy(drawn).permute(0, 3, 1, 2).float().div_(127.5).sub_(1.0)
    return {
        kind: Kind(
            names, templates, pixels, truth[:, axis], {w: i for i, n in enumerate(names) for w in world.names_for(n)}
        )
        for axis, (kind, (names, templates)) in enumerate(world.TASKS.items())
    }


def folder_kind(folder: Path, processor: Any, concepts: Sequence[str], limit: int) -> Kind:
    """Return the kind of a folder of folders, with at most ``limit`` pictures of each name."""
    from PIL import Image

    names = tuple(sorted(item.name for item in folder.iterdir() if item.is_dir()))
    spoken = tuple(name.replace("_", " ") for name in names)
    known = {text.casefold(): text for text in concepts}
    pixels, truth = [], []
    for index, name in enumerate(names):
        files = sorted(path for path in (folder / name).rglob("*") if path.suffix.lower() in SUFFIXES)[:limit]
        for path in files:
            with Image.open(path) as picture:
                pixels.append(processor(picture.convert("RGB"), return_tensors="pt")["pixel_values"][0])
            truth.append(index)
    if not pixels:
        raise SystemExit(f"{folder}: no pictures in its folders; name a folder with one folder of pictures a name")
    words = {known[name.casefold()]: i for i, name in enumerate(spoken) if name.casefold() in known}
    return Kind(spoken, TEMPLATES, torch.stack(pixels), np.array(truth), words)


@torch.no_grad()
def embed(model: Any, pixels: Tensor) -> Tensor:
    """Return normalised image embeddings, ``[N, P]``."""
    parts = [model.get_image_features(pixel_values=batch).pooler_output for batch in pixels.split(BATCH)]
    return normalize(torch.cat(parts).float(), dim=-1)


def classifiers(editor: SithEditor, kinds: Mapping[str, Kind]) -> dict[str, Tensor]:
    """Return the embeddings of each kind's names, the mean over its templates, ``[C, P]``."""
    found = {}
    for name, kind in kinds.items():
        texts = [template.format(text) for text in kind.names for template in kind.templates]
        embeddings = encode_texts(editor.text.model, editor.text.tokenizer, texts)
        found[name] = normalize(embeddings.reshape(len(kind.names), len(kind.templates), -1).mean(dim=1), dim=-1)
    return found


class Measure:
    """Which pictures of each kind are classified right, with an edit or without."""

    def __init__(self, editor: SithEditor, kinds: Mapping[str, Kind]) -> None:
        self.editor, self.kinds, self.heads = editor, kinds, classifiers(editor, kinds)
        self.base = self.right(None)

    def right(self, spec: EditSpec | None) -> dict[str, NDArray[np.bool_]]:
        """Return ``[N]`` for each kind. Kinds that share pictures share their embeddings."""
        if spec is not None:
            with self.editor.applied(spec):
                return self.right(None)
        seen: dict[int, Tensor] = {}
        found = {}
        for name, kind in self.kinds.items():
            if id(kind.pixels) not in seen:
                seen[id(kind.pixels)] = embed(self.editor.model, kind.pixels)
            found[name] = (seen[id(kind.pixels)] @ self.heads[name].T).argmax(dim=-1).numpy() == kind.truth
        return found

    def scores(self, right: Mapping[str, NDArray[np.bool_]], name: str, index: int) -> dict[str, float | None]:
        """Return recall of one name, accuracy of the other names of its kind, and of the other kinds."""
        mine = self.kinds[name].truth == index
        rest = [float(values.mean()) for other, values in right.items() if other != name]
        others = right[name][~mine]
        return {
            "recall": float(right[name][mine].mean()) if mine.any() else None,
            "same_kind": float(others.mean()) if len(others) else None,
            "other_kinds": statistics.mean(rest) if rest else None,
        }


def spread(items: list[tuple[str, int]], most: int | None) -> list[tuple[str, int]]:
    """Return at most so many items, evenly spread."""
    count = len(items) if most is None else min(most, len(items))
    return [items[number * len(items) // count] for number in range(count)]


def rows(
    editor: SithEditor, made: Decomposition, kinds: Mapping[str, Kind], gain: float, words: int | None = None
) -> Iterator[dict[str, Any]]:
    """Yield the result of every word."""
    measure = Measure(editor, kinds)
    for name, kind in kinds.items():
        for word, index in spread(list(kind.words.items()), words):
            row: dict[str, Any] = {"word": word, "kind": name, "before": measure.scores(measure.base, name, index)}
            try:
                draft = editor.suppress(word, gain=gain)
            except InputError as error:
                yield row | {"refused": str(error)}
                continue
            random = with_baselines(made, draft.gains, seeds=(0,), whole=False)["random 0"]
            after, control = (
                measure.scores(measure.right(make_spec(editor.tower, made, gains)), name, index)
                for gains in (draft.gains, random)
            )
            yield row | {
                "vectors": len(draft.gains),
                "drift": draft.impact.drift,
                "energy": draft.impact.energy,
                "taken": draft.taken[word],
                "warned": bool(draft.warnings),
                "after": after,
                "random": control,
            }


def summary(found: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return means over words that were edited, and counts."""
    edited = [row for row in found if "after" in row]

    def mean(values: Sequence[float | None]) -> float | None:
        known = [value for value in values if value is not None]
        return statistics.mean(known) if known else None

    def lost(row: Mapping[str, Any], key: str = "after") -> float:
        return (row["before"]["recall"] or 0.0) - (row[key]["recall"] or 0.0)

    figures = {
        f"{key}_{when}": mean([row[when][key] for row in edited])
        for key in ("recall", "same_kind", "other_kinds")
        for when in ("before", "after", "random")
    }
    silent = [row for row in edited if not row["warned"]]
    return {
        "words": len(found),
        "refused": len(found) - len(edited),
        "warned": sum(row["warned"] for row in edited),
        "changed": sum(lost(row) > 0.1 for row in edited),
        "changed_by_random": sum(lost(row, "random") > 0.1 for row in edited),
        "unchanged_without_warning": [row["word"] for row in silent if lost(row) <= 0.1],
        "vectors": mean([row["vectors"] for row in edited]),
        "drift": mean([row["drift"] for row in edited]),
        **figures,
    }


def percent(value: float | None) -> str:
    return "    -" if value is None else f"{100 * value:5.1f}"


def show(found: Sequence[Mapping[str, Any]], parts: Mapping[str, Mapping[str, Any]]) -> None:
    """Print a line for each word, and the summaries."""
    print("accuracies in %: before > after (random vectors); * below the limit of what an edit should take")
    print(f"{'word':<16}{'vectors':>8}{'drift':>7}{'taken':>7}   {'recall':<22}{'others of its kind':<24}other kinds")
    for row in found:
        if "after" not in row:
            print(f"{row['word']:<16}  refused: {row['refused'][:90]}")
            continue
        cells = (
            f"{percent(row['before'][key])} >{percent(row['after'][key])} ({percent(row['random'][key])})"
            for key in ("recall", "same_kind", "other_kinds")
        )
        mark = "*" if row["warned"] else " "
        print(f"{row['word']:<16}{row['vectors']:8d}{row['drift']:7.3f}{row['taken']:6.0%}{mark}  {'   '.join(cells)}")
    for name, part in parts.items():
        print(f"{name}: {json.dumps({k: round(v, 3) if isinstance(v, float) else v for k, v in part.items()})}")


def main() -> None:
    parser = options("edits of single words, before and after", repeats=1)
    parser.add_argument("--model", type=Path, help="a CLIP folder; the embedded checkpoint when left out")
    parser.add_argument("--concepts", type=Path, help="with --model: the dictionary, one concept a line")
    parser.add_argument(
        "--data", type=Path, action="append", help="with --model: a folder with one folder for each name"
    )
    parser.add_argument("--limit", type=int, default=50, help="with --data: pictures of each name")
    parser.add_argument("--words", type=int, help="at most so many words of each kind; all when left out")
    parser.add_argument("--layers", help="layers to decompose, such as -2,-1; all when left out")
    parser.add_argument("--seeds", default="2026,3026,4026", help="of the pictures of the embedded world")
    parser.add_argument("--pictures", type=int, default=200, help="pictures of each seed")
    parser.add_argument("--gain", type=float, default=0.0)
    args = started(parser)
    if len({args.model is None, args.concepts is None, args.data is None}) > 1:
        parser.error("--model, --concepts and --data go together")
    seeds = [int(seed) for seed in args.seeds.split(",")]
    if args.model is None:
        editor = SithEditor.from_pretrained(world.embedded_checkpoint())
        concepts, kinds = ConceptDictionary.from_texts(world.concepts()), embedded_kinds(seeds, args.pictures)
    else:
        from transformers import AutoImageProcessor

        editor = SithEditor.from_pretrained(args.model)
        concepts = ConceptDictionary.from_file(args.concepts)
        processor = AutoImageProcessor.from_pretrained(args.model)
        kinds = {str(folder): folder_kind(folder, processor, concepts.texts, args.limit) for folder in args.data}
    layers = None if args.layers is None else [int(layer) for layer in args.layers.split(",")]
    made = editor.decompose(concepts, layers=layers)
    found = list(rows(editor, made, kinds, args.gain, args.words))
    parts = {"all words": summary(found)}
    if args.model is None:
        chosen = set(world.concepts()[::2])
        parts |= {
            "words that chose the rule": summary([row for row in found if row["word"] in chosen]),
            "other words": summary([row for row in found if row["word"] not in chosen]),
        }
    if args.json:
        print(json.dumps({"words": found, "summary": parts, **surroundings(1)}))
    else:
        show(found, parts)


if __name__ == "__main__":
    main()
