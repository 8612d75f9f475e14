"""What the tab ``Compare`` compares the open decomposition with, and how it is opened."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sith_hf.adaptation import TURNED, diff_decompositions
from sith_hf.core.escaping import shown_name
from sith_hf.decomposition import DECOMPOSITION_LAYOUT, Decomposition
from sith_hf.errors import ArtifactError, InputError
from sith_hf.explore.compare_view import (
    Comparison,
    HeadComparison,
    change_facts,
    change_map,
    change_sentences,
    decomposition_maps,
    head_title,
    side_of,
    vector_pairs,
)
from sith_hf.explore.explorer import Explorer
from sith_hf.explore.stored_change import STORED, read_change, stored_directions
from sith_hf.explore.tuned_comparison import TunedComparison
from sith_hf.hub import local_path


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
class DecompositionComparison(Comparison):
    """Two decompositions."""

    first: Decomposition
    second: Decomposition

    @classmethod
    def of(cls, explorer: Explorer, second: Decomposition, other: str) -> DecompositionComparison:
        """Compare. Raises InputError for decompositions of different towers, sizes or sides."""
        first = explorer.decomposition
        diff = diff_decompositions(first, second)
        facts = [f"They are of {'the same' if diff.same_weights else 'different'} weights."]
        both = f", and {diff.words_changed:,} have other words" if first.has_words and second.has_words else ""
        turned = f"{diff.turned:,} turned by more than {TURNED:g} degrees"
        facts.append(f"Of {len(diff.blocks):,} blocks of vectors, {turned}{both}.")
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
        pairs = vector_pairs(side_of(self.first, layer, head), side_of(self.second, layer, head))
        note = "" if pairs[0].poles else "No words: one of them was decomposed without concepts."
        kept = sum(pair.share for pair in pairs if pair.same)
        facts = (("energy of A in the same vectors", f"{100 * kept:.0f} %"),)
        return HeadComparison(layer, head, head_title(self.first, layer, head), facts, pairs, note=note)


def _plain(*values: Any) -> bool:
    """Return whether settings are known, and short enough for a sentence."""
    return all(value is not None and not isinstance(value, dict) and len(str(value)) < 60 for value in values)


@dataclass(frozen=True, eq=False)
class StoredComparison(Comparison):
    """The comparison in a folder of ``sith-hf compare``: numbers, and words of the change if it has any."""

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
