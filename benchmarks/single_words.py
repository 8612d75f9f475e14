"""Edits of single words, before and after: does the model stop seeing the word, and does it still see the others?

    python benchmarks/single_words.py                       # all 55 words of the embedded world, 2.5 minutes of CPU
    python benchmarks/single_words.py --model FOLDER --concepts words.txt --data IMAGEFOLDER [--data IMAGEFOLDER ...]

For each word: ``suppress(word)`` with all defaults, and random sets of as many vectors in the same layers, drawn anew
for each word. Measured on pictures: recall of the word (zero-shot, among the names of its kind), accuracy of the other
names of its kind, accuracy of the other kinds, and the other names whose own recall falls. Estimated from the weights:
drift, and the share of the word's writing that is taken.

- A word is refused if ``suppress`` raises InputError, and warned of if ``Edit.warnings`` is not empty.
- A name is seen if its recall before the edit is at least ``SEEN``. A word that is not seen has nothing to lose: it is
  listed and left out of all counts and means. A seen name changes if its recall falls by more than ``CHANGE``.
- The embedded world: each kind (objects, colours, ...) is one classification, and a synonym takes the place of its
  name in it. Every other word was used to choose the rule (seeds 11 to 13); the summary reports both halves. The
  default seeds are new.
- Another world: each ``--data`` is a kind, with one folder of pictures for each name. Words are the names that
  ``--concepts`` has; ``_`` in a folder's name is a space.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
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

SEEN, CHANGE = 0.2, 0.1
"""The least recall of a name that is seen, and the loss of recall above which it changes."""


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


class Measure:
    """Recall and accuracy on the pictures of all kinds, with an edit or without."""

    def __init__(self, editor: SithEditor, kinds: Mapping[str, Kind]) -> None:
        self.editor, self.kinds = editor, kinds
        self.texts = {name: self._texts(kind) for name, kind in kinds.items()}
        self.base = self.pictures(None)

    def _texts(self, kind: Kind) -> dict[str, Tensor]:
        """Return the embedding of every name and word, the mean over its templates, ``[P]``."""
        words = list(dict.fromkeys((*kind.names, *kind.words)))
        texts = [template.format(word) for word in words for template in kind.templates]
        embeddings = encode_texts(self.editor.text.model, self.editor.text.tokenizer, texts)
        means = normalize(embeddings.reshape(len(words), len(kind.templates), -1).mean(dim=1), dim=-1)
        return dict(zip(words, means, strict=True))

    def pictures(self, spec: EditSpec | None) -> dict[str, Tensor]:
        """Return the embeddings ``[N, P]`` of each kind's pictures. Kinds that share pictures share them."""
        if spec is not None:
            with self.editor.applied(spec):
                return self.pictures(None)
        seen: dict[int, Tensor] = {}
        for kind in self.kinds.values():
            if id(kind.pixels) not in seen:
                seen[id(kind.pixels)] = embed(self.editor.model, kind.pixels)
        return {name: seen[id(kind.pixels)] for name, kind in self.kinds.items()}

    def scores(self, pictures: Mapping[str, Tensor], name: str, word: str) -> dict[str, Any]:
        """Return recall of a word, accuracy of the other names of its kind and of the other kinds, and each recall."""
        index = self.kinds[name].words[word]
        accuracy, recall = {}, {}
        for other, kind in self.kinds.items():
            names = list(kind.names)
            if other == name:
                names[index] = word
            heads = torch.stack([self.texts[other][text] for text in names])
            right = (pictures[other] @ heads.T).argmax(dim=-1).numpy() == kind.truth
            recall[other] = [
                float(right[kind.truth == i].mean()) if (kind.truth == i).any() else None for i in range(len(names))
            ]
            accuracy[other] = right[kind.truth != index] if other == name else right
        rest = [float(values.mean()) for other, values in accuracy.items() if other != name]
        return {
            "recall": recall[name][index],
            "same_kind": float(accuracy[name].mean()) if len(accuracy[name]) else None,
            "other_kinds": statistics.mean(rest) if rest else None,
            "names": {
                f"{other}: {text}": recall[other][i]
                for other, kind in self.kinds.items()
                for i, text in enumerate(kind.names)
                if (other, i) != (name, index)
            },
        }


def spread(items: list[tuple[str, int]], most: int | None) -> list[tuple[str, int]]:
    """Return at most so many items, evenly spread."""
    count = len(items) if most is None else min(most, len(items))
    return [items[number * len(items) // count] for number in range(count)]


def rows(
    editor: SithEditor, made: Decomposition, kinds: Mapping[str, Kind], gain: float, draws: int, most: int | None
) -> Iterator[dict[str, Any]]:
    """Yield the result of every word, or of ``most`` of each kind."""
    measure = Measure(editor, kinds)
    chosen = [(name, word) for name, kind in kinds.items() for word, _ in spread(list(kind.words.items()), most)]
    for number, (name, word) in enumerate(chosen):
        row: dict[str, Any] = {"word": word, "kind": name, "before": measure.scores(measure.base, name, word)}
        try:
            draft = editor.suppress(word, gain=gain)
        except InputError as error:
            yield row | {"refused": str(error)}
            continue
        # The same seed would draw nearly the same vectors for every word.
        seeds = range(number * draws, (number + 1) * draws)
        edits = with_baselines(made, draft.gains, seeds=seeds, whole=False)
        after, *random = (
            measure.scores(measure.pictures(make_spec(editor.tower, made, gains)), name, word)
            for gains in edits.values()
        )
        yield row | {
            "vectors": len(draft.gains),
            "drift": draft.impact.drift,
            "energy": draft.impact.energy,
            "taken": draft.taken[word],
            "warned": bool(draft.warnings),
            "after": after,
            "random": random,
        }


def lost(row: Mapping[str, Any], scores: Mapping[str, Any]) -> float:
    """Return the loss of the word's recall."""
    return float(row["before"]["recall"] - scores["recall"])


def harmed(row: Mapping[str, Any], scores: Mapping[str, Any]) -> dict[str, float]:
    """Return the other seen names whose recall falls by more than ``CHANGE``, with the loss, largest first."""
    before = {name: value for name, value in row["before"]["names"].items() if value is not None and value >= SEEN}
    losses = {name: value - scores["names"][name] for name, value in before.items()}
    return {name: loss for name, loss in sorted(losses.items(), key=lambda item: -item[1]) if loss > CHANGE}


def mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.mean(known) if known else None


def summary(found: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return counts, and means over the edited words that are seen."""
    seen = [row for row in found if row["before"]["recall"] is not None and row["before"]["recall"] >= SEEN]
    edited = [row for row in seen if "after" in row]
    groups: dict[tuple[bool, bool], list[str]] = {(c, w): [] for c in (True, False) for w in (True, False)}
    for row in edited:
        groups[lost(row, row["after"]) > CHANGE, row["warned"]].append(row["word"])
    figures = {
        f"{key}_{when}": mean(
            scores[key] for row in edited for scores in (row[when] if when == "random" else [row[when]])
        )
        for key in ("recall", "same_kind", "other_kinds")
        for when in ("before", "after", "random")
    }
    return {
        "words": len(found),
        "not_seen": [row["word"] for row in found if row not in seen],
        "refused": [row["word"] for row in seen if "refused" in row],
        "edited": len(edited),
        "changed": len(groups[True, True] + groups[True, False]),
        "changed_by_random": mean(mean(lost(row, scores) > CHANGE for scores in row["random"]) for row in edited),
        "changed_despite_warning": groups[True, True],
        "unchanged_with_warning": groups[False, True],
        "unchanged_without_warning": groups[False, False],
        "others_harmed": mean(len(harmed(row, row["after"])) for row in edited),
        "others_harmed_by_random": mean(len(harmed(row, scores)) for row in edited for scores in row["random"]),
        "vectors": mean(row["vectors"] for row in edited),
        "drift": mean(row["drift"] for row in edited),
        **figures,
    }


def headline(name: str, part: Mapping[str, Any]) -> str:
    """Return the summary in a sentence."""
    return (
        f"{name}: {part['changed']} of {part['edited']} edited words lose more than {CHANGE:.0%} of recall "
        f"({percent(part['changed_by_random']).strip()} % of them with random vectors); "
        f"{len(part['unchanged_without_warning'])} stay without a warning, {len(part['unchanged_with_warning'])} with "
        f"one; {len(part['refused'])} are refused, {len(part['not_seen'])} of {part['words']} were not seen before "
        f"(recall below {SEEN:.0%})"
    )


def percent(value: float | None) -> str:
    return "    -" if value is None else f"{100 * value:5.1f}"


def show(found: Sequence[Mapping[str, Any]], parts: Mapping[str, Mapping[str, Any]]) -> None:
    """Print the summaries, and a line for each word."""
    for name, part in parts.items():
        print(headline(name, part))
    print("\naccuracies in %: before > after (mean of the random sets). * warned of, - not seen before.")
    print(f"harmed: other names that lose more than {CHANGE:.0%} of recall (with random vectors), the worst of them")
    columns = f"{'recall':<22}{'others of its kind':<22}{'other kinds':<22}harmed"
    print(f"{'word':<24}{'vectors':>8}{'drift':>7}{'taken':>7}   {columns}")
    for row in found:
        if "after" not in row:
            print(f"{row['word']:<24}  refused: {row['refused'][:90]}")
            continue
        cells = (
            f"{percent(row['before'][key])} >{percent(row['after'][key])} "
            f"({percent(mean(scores[key] for scores in row['random']))})"
            for key in ("recall", "same_kind", "other_kinds")
        )
        worst = harmed(row, row["after"])
        chance = mean(len(harmed(row, scores)) for scores in row["random"]) or 0.0
        harm = f"{len(worst):2d} ({chance:4.1f})" + "".join(
            f" {name} -{100 * worst[name]:.0f}" for name in [*worst][:1]
        )
        unseen = row["before"]["recall"] is None or row["before"]["recall"] < SEEN
        mark = ("*" if row["warned"] else " ") + ("-" if unseen else " ")
        taken = f"{row['taken']:6.0%}{mark}"
        print(f"{row['word']:<24}{row['vectors']:8d}{row['drift']:7.3f}{taken}  {'  '.join(cells)}  {harm}")
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
    parser.add_argument("--draws", type=int, default=3, help="random sets of vectors for each word")
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
        kinds = {folder.name: folder_kind(folder, processor, concepts.texts, args.limit) for folder in args.data}
        if len(kinds) < len(args.data):
            parser.error("each --data needs a folder name of its own")
    layers = None if args.layers is None else [int(layer) for layer in args.layers.split(",")]
    made = editor.decompose(concepts, layers=layers)
    found = list(rows(editor, made, kinds, args.gain, args.draws, args.words))
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
