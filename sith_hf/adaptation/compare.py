"""``compare``: the change of every head between two towers of one architecture."""

from __future__ import annotations

from tqdm import tqdm

from sith_hf.adaptation.adaptation import Adaptation
from sith_hf.adaptation.blocks import CLOSE
from sith_hf.adaptation.change import layer_changes
from sith_hf.core.ranges import Numbers
from sith_hf.core.validation import finite_number, whole_number
from sith_hf.errors import InputError
from sith_hf.towers import Tower

DIRECTIONS = 3
"""Leading directions of each head's change."""


def compare(
    base: Tower,
    tuned: Tower,
    layers: Numbers | None = None,
    *,
    close: float = CLOSE,
    directions: int = DIRECTIONS,
    progress: bool = False,
) -> Adaptation:
    """Compare the value-output matrices of two towers head by head (Method, sec. 7).

    Compared are the matrices with the norm before the values folded in and the all-ones direction dropped, which is
    what a head does to the residual stream: a fine-tuned norm counts, and heads whose values and outputs were rotated
    together have not changed. A change that is no larger than the rounding of the weights counts as zero.

    Args:
        base, tuned: towers of one architecture.
        layers: layer numbers, negative ones from the last; all layers when None.
        close: singular values are one block if they differ by at most this part, 0 or more and below 1.
        directions: leading directions of each head's change to report.
        progress: show a bar on stderr.

    Returns:
        zeros for towers with the same weights.

    Raises:
        InputError: towers of different families or sizes, or values out of range.
    """
    if not 0 <= finite_number(close, "close") < 1:
        raise InputError(f"close must be a relative distance from 0 to below 1; got {close}")
    if whole_number(directions, "directions", least=1) > base.head_size:
        raise InputError(f"directions must be at most the head size {base.head_size}; got {directions}")
    check_same_architecture(base, tuned)
    heads = [
        head
        for number in tqdm(base.resolve_layers(layers), desc="comparing", unit="layer", disable=not progress)
        for head in layer_changes(
            number,
            base.layers[number],
            tuned.layers[number],
            base.num_heads,
            close=close,
            directions=directions,
        )
    ]
    return Adaptation(tuple(heads), base.kind, base.family, dict(base.settings), close)


def check_same_architecture(base: Tower, tuned: Tower) -> None:
    """Raise InputError unless two towers have the same family and sizes."""
    facts = {
        "family": (base.family, tuned.family),
        "tower": (base.kind, tuned.kind),
        "number of layers": (len(base.layers), len(tuned.layers)),
        "width": (base.hidden_size, tuned.hidden_size),
        "number of heads": (base.num_heads, tuned.num_heads),
    }
    for name, (ours, theirs) in facts.items():
        if ours != theirs:
            raise InputError(
                f"the two checkpoints differ in architecture: the base has {name} {ours}, the tuned one {theirs}. "
                "Compare a checkpoint with the one that it was fine-tuned from"
            )
