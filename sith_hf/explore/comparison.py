"""What the tab ``Compare`` compares the open decomposition with, and how it is opened."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from sith_hf.adaptation import Adaptation, TURNED, diff_decompositions, explain_change
from sith_hf.concepts import ConceptDictionary
from sith_hf.core.escaping import shown_name
from sith_hf.decomposition import DECOMPOSITION_LAYOUT, DecomposeSettings, Decomposition, decompose
from sith_hf.errors import ArtifactError, InputError
from sith_hf.explore.compare_view import (
    Direction,
    HeadComparison,
    change_facts,
    change_map,
    decomposition_maps,
    explained_poles,
    vector_pairs,
)
from sith_hf.explore.explorer import Explorer
from sith_hf.explore.map_view import MapView
from sith_hf.explore.stored_change import STORED, read_change, stored_directions
from sith_hf.hub import local_path
from sith_hf.pursuit import Pursuit
from sith_hf.towers import layer_title

if TYPE_CHECKING:
    from sith_hf.editor import SithEditor


class Comparison(Protocol):
    """Two sides: A, which is open, and B.

    Attributes:
        names: of A and B.
        facts: sentences about the whole.
        maps: name of a map to the map.
    """

    names: tuple[str, str]
    facts: tuple[str, ...]
    maps: Mapping[str, MapView]

    def head(self, layer: int, head: int) -> HeadComparison:
        """Return a head of both. Raises InputError for one that is not in both."""


def comparison_of(explorer: Explorer, other: str) -> Comparison:
    """Return the comparison with ``other``, made when first asked for.

    Args:
        explorer: what is open.
        other: a decomposition, the folder that ``sith-hf compare`` wrote, or a model that was fine-tuned from the
            explorer's; a folder or Hub id.

    Raises:
        InputError: none of these, one that does not compare, or a path on a machine of others.
    """
    other = other.strip()
    if not other:
        raise InputError("name a decomposition, a folder of sith-hf compare, or a fine-tuned model: folder or Hub id")
    if not explorer.local and other != explorer.other:
        raise InputError("this page is open to others, so it compares only with what it was started with (--with)")
    found: Comparison = explorer.kept(f"comparison {other}", lambda: _opened(explorer, other))
    return found


def _opened(explorer: Explorer, other: str) -> Comparison:
    path = local_path(other)
    if path is not None and (stored := path / STORED if path.is_dir() else path).name == STORED and stored.is_file():
        return StoredComparison.of(read_change(stored))
    try:
        second = Decomposition.from_pretrained(other)
    except ArtifactError as error:
        if path is not None and (path / DECOMPOSITION_LAYOUT.filename).exists():
            raise
        if explorer.model is None:
            raise InputError(
                f"{other} is neither a decomposition nor a folder of sith-hf compare ({error}). To compare with a "
                "fine-tuned model, start again with --model, its base"
            ) from None
        return TunedComparison.of(explorer.editor, other)
    return DecompositionComparison.of(explorer, second, other)


@dataclass(frozen=True, eq=False)
class DecompositionComparison:
    """Two decompositions."""

    names: tuple[str, str]
    facts: tuple[str, ...]
    maps: Mapping[str, MapView]
    first: Decomposition
    second: Decomposition

    @classmethod
    def of(cls, explorer: Explorer, second: Decomposition, other: str) -> DecompositionComparison:
        """Compare. Raises InputError for decompositions of different towers, sizes or sides."""
        first = explorer.decomposition
        diff = diff_decompositions(first, second)
        facts = [f"They are of {'the same' if diff.same_weights else 'different'} weights."]
        facts.append(
            f"Of {len(diff.blocks):,} blocks of vectors, {diff.turned:,} turned by more than {TURNED:g} degrees, and "
            f"{diff.words_changed:,} have other words."
        )
        if diff.fidelity is not None:
            facts.append(f"The mean fidelity is {diff.fidelity[0]:.3f} in A and {diff.fidelity[1]:.3f} in B.")
        missing = [str(layer) for layer in first.layers if layer not in second.layers]
        if missing:
            facts.append(f"B lacks layers {', '.join(missing)}.")
        facts += [f"Setting {name}: {a} in A, {b} in B." for name, (a, b) in diff.settings.items() if _plain(a, b)]
        names = (shown_name(explorer.source), shown_name(other))
        maps = decomposition_maps(first, second, diff)
        ordered = maps if diff.turned or "words" not in maps else {name: maps[name] for name in ("words", "vectors")}
        return cls(names, tuple(facts), ordered, first, second)

    def head(self, layer: int, head: int) -> HeadComparison:
        """Return a head of both."""
        pairs = vector_pairs(self.first, self.second, layer, head)
        note = "" if pairs[0].poles else "No words: one of them was decomposed without concepts."
        kept = sum(pair.share for pair in pairs if pair.same)
        facts = (("energy of A in the same vectors", f"{100 * kept:.0f} %"),)
        return HeadComparison(layer, head, _title(self.first, layer, head), facts, pairs, note=note)


def _plain(*values: Any) -> bool:
    """Return whether settings are short enough for a sentence."""
    return all(not isinstance(value, (dict, list)) and len(str(value)) < 60 for value in values)


@dataclass(frozen=True, eq=False)
class TunedComparison:
    """The model of the decomposition, and one that was fine-tuned from it."""

    names: tuple[str, str]
    facts: tuple[str, ...]
    maps: Mapping[str, MapView]
    base: SithEditor
    tuned: SithEditor
    found: Adaptation
    layers: dict[int, Decomposition] = field(default_factory=dict)

    @classmethod
    def of(cls, base: SithEditor, other: str) -> TunedComparison:
        """Compare. Raises InputError for a model that cannot be loaded or has another architecture."""
        from sith_hf.adaptation import load_tuned
        from sith_hf.editor import SithEditor

        tuned = SithEditor(load_tuned(base.loaded, other), kind=base.tower.kind)
        found = base.compare(tuned, layers=base.decomposition.layers)
        data = found.to_json()
        maps = {"change": change_map(data["heads"], base.decomposition.base.settings)}
        names = (shown_name(base.loaded.name), shown_name(other))
        return cls(names, change_sentences(data), maps, base, tuned, found)

    def head(self, layer: int, head: int) -> HeadComparison:
        """Return a head of both, with its vectors after the change explained by the concepts of the decomposition."""
        first = self.base.decomposition
        first.place(layer, head, 0)
        change = next(item for item in self.found.heads if (item.layer, item.head) == (layer, head))
        pairs = vector_pairs(first, self._after(layer), layer, head)
        dictionary = _dictionary(first)
        sides: dict[str, tuple[Direction, ...] | None] = {"write": None, "read": None}
        if dictionary is not None and change.changed:
            for side in sides:
                words = explain_change(
                    self.base.tower, self.tuned.tower, (change,), dictionary, _pursuit(first), side=side
                )
                sides[side] = tuple(Direction(item.share, explained_poles(item.poles, item.beyond_chance)) for item in words)
        note = "" if dictionary is not None else "No words: the decomposition has none to explain the change with."
        facts = change_facts(change.to_json())
        title = _title(first, layer, head)
        return HeadComparison(layer, head, title, facts, pairs, sides["write"], sides["read"], note)

    def _after(self, layer: int) -> Decomposition:
        """Return the decomposition of a layer after the change, made as that of the base was, in its concepts."""
        if layer not in self.layers:
            first = self.base.decomposition
            rows = list(self.base.tower.layers)
            rows[layer] = self.tuned.tower.layers[layer]
            settings = DecomposeSettings(
                layers=[layer],
                rank=first.rank,
                poles="".join(first.poles) or "+-",
                side=first.side,
                pursuit=_pursuit(first),
                fold=bool(first.settings.get("fold", True)),
                centre=first.settings.get("centre"),
            )
            self.layers[layer] = decompose(replace(self.base.tower, layers=tuple(rows)), _dictionary(first), settings)
        return self.layers[layer]


def _dictionary(found: Decomposition) -> ConceptDictionary | None:
    """Return the concepts that occur in a decomposition of direct effects; None without."""
    if not found.has_words or found.effect != "direct":
        return None
    return ConceptDictionary(found.texts, embeddings=found.embeddings)


def _pursuit(found: Decomposition) -> Pursuit:
    """Return the sparse coder of a decomposition; the default for what an earlier release did not record."""
    known = {name: found.settings[name] for name in ("method", "sparsity", "coherence_weight") if name in found.settings}
    try:
        return Pursuit(**known)
    except InputError:
        return Pursuit()


@dataclass(frozen=True, eq=False)
class StoredComparison:
    """The comparison in a folder of ``sith-hf compare``: numbers, and words of the change if it has any."""

    names: tuple[str, str]
    facts: tuple[str, ...]
    maps: Mapping[str, MapView]
    data: Mapping[str, Any]

    @classmethod
    def of(cls, data: Mapping[str, Any]) -> StoredComparison:
        """Show what :func:`read_change` returned."""
        names = (shown_name(data["base"]), shown_name(data["tuned"]))
        return cls(names, change_sentences(data), {"change": change_map(data["heads"], {})}, data)

    def head(self, layer: int, head: int) -> HeadComparison:
        """Return the change of a head."""
        for item in self.data["heads"]:
            if (item["layer"], item["head"]) == (layer, head):
                writes = stored_directions(self.data, layer, head)
                note = "The vectors before and after are not in this folder: compare with the tuned model itself."
                facts = change_facts(item)
                return HeadComparison(layer, head, f"Layer {layer}, head {head}", facts, (), writes, None, note)
        raise InputError(f"layer {layer}, head {head} was not compared")


def change_sentences(data: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the sentences about a whole change, from ``Adaptation.to_json``."""
    said = [f"{data['changed_heads']} of {len(data['heads'])} heads of the {data['tower']} tower changed."]
    if data["change"]:
        parts = ", ".join(f"{100 * data[name]:.0f} % {label}" for name, label in _PARTS.items())
        said.append(f"The change is {100 * data['change']:.2g} % of the base: {parts}.")
    return tuple(said)


_PARTS = {"reweighting": "reweighting", "rotation": "rotation", "new": "new directions"}


def _title(found: Decomposition, layer: int, head: int) -> str:
    return f"Layer {layer_title(layer, found.base.settings)}, head {head}"
