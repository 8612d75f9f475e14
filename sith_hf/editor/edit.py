"""``Edit``: an edit under construction, from concepts or numbers of vectors to an ``EditSpec``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Protocol

from torch import Tensor

from sith_hf.core.escaping import sanitize
from sith_hf.core.ranges import Numbers
from sith_hf.core.validation import did_you_mean
from sith_hf.decomposition import Decomposition
from sith_hf.editor.notebook import edit_html
from sith_hf.edits import EditSpec, make_spec
from sith_hf.errors import InputError
from sith_hf.gains import (
    FELT,
    SHARE_THRESHOLD,
    WORD_LEVEL,
    Gains,
    Impact,
    Selection,
    WordCarriers,
    WordChoice,
    by_concepts,
    by_name,
    by_word,
    gain_rows,
    gain_table,
    impact_of,
    share_of,
    word_carriers,
)
from sith_hf.towers import LoadedModel, Tower, layer_title, partial_lines


class Editor(Protocol):
    """What an edit needs of a ``SithEditor``."""

    loaded: LoadedModel

    @property
    def tower(self) -> Tower:
        """The tower that is edited."""

    def embed(self, *concepts: str, decomposition: Decomposition | None = None) -> dict[str, Tensor]:
        """Return the text embedding of each concept, ``[P]``."""


@dataclass(frozen=True, eq=False, repr=False)
class Edit:
    """An edit under construction: every method returns a new one, and ``spec`` is its current state.

    Attributes:
        editor: the ``SithEditor`` of the model.
        decomposition: the decomposition that vectors are chosen from.
        gains: the vectors chosen so far.
        words: for each concept named so far, how strongly each vector carries it.
        choices: for each concept chosen by the rule for single words, what was chosen and left out.
    """

    editor: Editor
    decomposition: Decomposition
    gains: Gains = field(default_factory=Gains)
    words: Mapping[str, WordCarriers] = field(default_factory=dict)
    choices: tuple[WordChoice, ...] = ()

    def __post_init__(self) -> None:
        self.decomposition.require_side("write")

    def set_gain(
        self,
        *concepts: str,
        gain: float,
        top: int | None = None,
        threshold: float | None = None,
        near: float | None = None,
        both_poles: bool = False,
        layers: Numbers | None = None,
        heads: Numbers | None = None,
    ) -> Edit:
        """Set the gain of vectors by concepts, in one of two ways. If a vector is chosen again, its gains multiply.

        - Single words, the default: the vectors that carry any of ``concepts`` beyond chance, or the ``top`` strongest
          of each (see :func:`sith_hf.gains.by_word`).
        - A topic, with ``threshold``, ``near`` or ``both_poles``: the vectors whose explanation is about all
          ``concepts`` together with at least a share (see :func:`sith_hf.gains.by_concepts`).

        Raises:
            InputError: no concept, a value out of range, ``top`` with a topic, no vector for a word or topic, or a
                decomposition without explanations.
        """
        if not (self.decomposition.has_words or self.editor.tower.has_joint):
            raise InputError(self.editor.tower.no_words)
        self.decomposition.require_words()
        queries = self.editor.embed(*concepts, decomposition=self.decomposition)
        select = Selection(self._readable(layers), heads, both_poles)
        topic = {name: value for name, value in (("threshold", threshold), ("near", near)) if value is not None}
        if topic or both_poles:
            if top is not None:
                raise InputError("top is for single words; leave it out, or leave out threshold, near and both_poles")
            return self._of_topic(queries, gain, topic, select)
        return self._of_words(queries, gain, top, select)

    def _of_topic(
        self, queries: Mapping[str, Tensor], gain: float, limits: Mapping[str, float], select: Selection
    ) -> Edit:
        chosen = by_concepts(self.decomposition, queries, gain, **limits, select=select)
        if not chosen:
            near = {name: value for name, value in limits.items() if name == "near"}
            most = float(share_of(self.decomposition, queries, **near, select=select).max())
            raise InputError(
                f"no vector is about {', '.join(queries)} with a share of at least "
                f"{limits.get('threshold', SHARE_THRESHOLD)} (the largest share in all layers is {most:.2f}): lower "
                "threshold or near, decompose more layers, or leave them out to choose by single words"
            )
        words = {item.word: item for item in word_carriers(self.editor.tower, self.decomposition, queries)}
        return replace(self, gains=self.gains.then(chosen), words={**self.words, **words})

    def _of_words(self, queries: Mapping[str, Tensor], gain: float, top: int | None, select: Selection) -> Edit:
        gains, choices, words = Gains(), [], {}
        level = WORD_LEVEL / max(1, len(queries))
        for carriers in word_carriers(self.editor.tower, self.decomposition, queries):
            chosen, choice = by_word(self.decomposition, carriers, gain, top=top, level=level, select=select)
            if not chosen:
                strongest = choice.left_out[0][1] if choice.left_out else "there is no vector to choose"
                raise InputError(
                    f"no vector carries {carriers.word} beyond chance (the strongest is {strongest}): name a number of "
                    "vectors with top, decompose more layers, or search with find"
                )
            # A vector of two words gets the gain once.
            joined = gains.then(chosen)
            gains = replace(joined, gain=dict.fromkeys(joined.gain, float(gain)))
            choices.append(choice)
            words[carriers.word] = carriers
        return replace(
            self,
            gains=self.gains.then(gains),
            words={**self.words, **words},
            choices=(*self.choices, *choices),
        )

    def suppress(self, *concepts: str, gain: float = 0.0, **rule: Any) -> Edit:
        """Remove the vectors of ``concepts``, or weaken them. ``rule``: see :meth:`set_gain`."""
        return self.set_gain(*concepts, gain=gain, **rule)

    def amplify(self, *concepts: str, gain: float = 1.5, **rule: Any) -> Edit:
        """Amplify the vectors of ``concepts``. ``rule``: see :meth:`set_gain`."""
        return self.set_gain(*concepts, gain=gain, **rule)

    def invert(self, *concepts: str, **rule: Any) -> Edit:
        """Invert the vectors of ``concepts`` (gain -1). ``rule``: see :meth:`set_gain`."""
        return self.set_gain(*concepts, gain=-1.0, **rule)

    def vectors(
        self,
        gain: float,
        *,
        layers: Numbers | None = None,
        heads: Numbers | None = None,
        vectors: Numbers | None = None,
    ) -> Edit:
        """Set the gain of vectors by number (see :func:`sith_hf.gains.by_name`)."""
        if layers is None and (heads is not None or vectors is not None):
            layers = self._readable(None)
        chosen = by_name(self.decomposition, gain, layers=layers, heads=heads, vectors=vectors)
        return replace(self, gains=self.gains.then(chosen))

    def _readable(self, layers: Numbers | None) -> Numbers | None:
        """Return the layers to choose from: those that are named, else those that the model reads; None for all."""
        inert, known = self.editor.tower.inert, self.decomposition.layers
        if layers is not None or not inert.keys() & set(known):
            return layers
        found = [layer for layer in known if layer not in inert]
        if not found:
            self.editor.tower.check_writable(known)
        return found

    def __mul__(self, strength: float) -> Edit:
        """Scale the edit: strength 0 changes nothing, 1 is the edit itself. Raises InputError."""
        return replace(self, gains=self.gains * strength)

    __rmul__ = __mul__

    @cached_property
    def spec(self) -> EditSpec:
        """The edit, to save, apply or write into a checkpoint."""
        return make_spec(self.editor.tower, self.decomposition, self.gains)

    @cached_property
    def impact(self) -> Impact:
        """How much of the model the edit changes, estimated from the weights; ``impact.check()`` compares limits."""
        return impact_of(self.editor.tower, self.decomposition, self.gains.gain)

    @cached_property
    def taken(self) -> dict[str, float]:
        """For each named concept, the estimated share of what the model writes of it that the edit changes, 0 to 1."""
        return {word: carriers.taken(self.decomposition, self.gains) for word, carriers in self.words.items()}

    @property
    def warnings(self) -> tuple[str, ...]:
        """In words: concepts that may be mistyped, those of which the edit changes too little to be seen, and layers
        that do not reach all that the model returns.

        An edit that only amplifies a concept, by gains below 2, is compared with the most that such a gain can change.
        """
        unknown = {word: did_you_mean(word, self.decomposition.texts) for word in self.words}
        lines = [
            f"{word} is no concept of an explanation{meant}; the text tower encodes it as it is written"
            for word, meant in unknown.items()
            if meant and not self.decomposition.has(word)
        ]
        for word, share in self.taken.items():
            limit = FELT * min(1.0, self._strongest(word))
            if share < limit:
                lines.append(
                    f"{word}: the edit changes an estimated {share:.0%} of what the model writes of it, and below "
                    f"{limit:.0%} the model mostly sees {word} as before; choose more vectors (top, threshold) or a "
                    "stronger gain"
                )
        changed = sorted({layer for (layer, _, _), gain in self.gains.gain.items() if gain != 1})
        return (*lines, *partial_lines(self.editor.tower.partial, changed))

    def _strongest(self, word: str) -> float:
        """Return the largest change of gain of the vectors chosen for a word, or 1 if most are not amplified."""
        gains = [
            self.gains.gain[key]
            for key, evidence in self.gains.evidence.items()
            if any(f", {word}, " in f", {item.about}, " for item in evidence)
        ]
        # A few vectors may be suppressed for another word.
        return max(gains) - 1 if gains and sorted(gains)[len(gains) // 2] > 1 else 1.0

    def rows(self) -> list[dict[str, Any]]:
        """Return each vector with its gain, reason, share and fidelity, as plain data."""
        return gain_rows(self.decomposition, self.gains)

    def __str__(self) -> str:
        chosen = {choice.word: f" ({choice.chosen} of {choice.candidates} vectors)" for choice in self.choices}
        above = [f"Edit of {self.editor.loaded.name}: {self.impact}"]
        above += [
            f"{word}: {share:.0%} of what the model writes of it is changed, estimated{chosen.get(word, '')}"
            for word, share in self.taken.items()
        ]
        below = []
        for choice in self.choices:
            below += [f"{choice.word}: left out, strongest first"] if choice.left_out else []
            below += [
                f"  layer {layer}, head {head}, vector {vector}; {why}"
                for (layer, head, vector), why in choice.left_out
            ]
        heading, tail = ([sanitize(line, 1000) for line in lines] for lines in (above, below))
        rows = [{**row, "layer": layer_title(row["layer"], self.editor.tower.settings)} for row in self.rows()]
        return "\n".join([*heading, gain_table(rows), *tail])

    def __repr__(self) -> str:
        return repr(self.spec)

    def _repr_html_(self) -> str:
        settings = self.editor.tower.settings
        return edit_html(self.spec.heading, self.rows(), self.impact, self.taken, self.warnings, settings)
