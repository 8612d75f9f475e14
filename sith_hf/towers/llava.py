"""The family LLaVA: the vision tower of CLIP or SigLIP inside a model that describes pictures.

LLaVA reads a hidden state of the tower, usually the one before the last (``vision_feature_layer``). It has no joint
space of images and texts: the words come from the companion, the CLIP or SigLIP model that the tower was taken from.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from sith_hf.errors import InputError, UnsupportedModel
from sith_hf.towers.clip import CLIP
from sith_hf.towers.family import TowerFamily
from sith_hf.towers.readout import Readout
from sith_hf.towers.siglip import SIGLIP
from sith_hf.towers.tensors import CLIP_PATHS, Tensors, read_layers
from sith_hf.towers.tower import Tower
from sith_hf.towers.vision_only import NoJointSpace

# The model types of vision towers, whose encoder layers all have CLIP's parts.
_TOWERS = ("clip_vision_model", "siglip_vision_model")

_PATH = "model.vision_tower"


@dataclass(frozen=True)
class LlavaFamily(NoJointSpace):
    """The family of LLaVA models.

    Attributes:
        companions: the families of models that may explain a tower.
        name, model_types: see :class:`sith_hf.towers.TowerFamily`.
    """

    companions: tuple[TowerFamily, ...]
    name: str
    model_types: Mapping[str, tuple[str, ...]]

    @property
    def advice(self) -> str:
        """What to do without words."""
        return (
            "name the CLIP or SigLIP model that its vision tower was taken from, with text_model="
            '"openai/clip-vit-large-patch14-336" (--text-model on the command line), or leave the concepts out and '
            "edit by number"
        )

    def towers(self, architecture: str) -> Mapping[str, str]:
        """Return the path of the vision tower."""
        return {"vision": _PATH}

    def nested(self, architecture: str) -> bool:
        """Return True: files of transformers 4 have the prefix ``vision_model.`` below ``vision_tower.``."""
        return True

    def locate(self, root: Any, kind: str) -> tuple[Any, str]:
        """Return the vision tower and its path. Raises AttributeError for another model."""
        return root.get_submodule(_PATH), _PATH

    def outputs(self, tower: Any) -> Sequence[str]:
        """Return the paths of the output projections of the encoder; the pool of a SigLIP tower is never read."""
        return [f"encoder.layers.{n}.{CLIP_PATHS.out}" for n in range(len(tower.encoder.layers))]

    def settings(self, config: Any, kind: str) -> dict[str, Any]:
        """Return the settings of the tower, with the hidden states that LLaVA reads.

        Raises:
            UnsupportedModel: a tower of another kind.
            InputError: a hidden state that the tower does not have.
        """
        found = super().settings(config, kind)
        if hasattr(config, "vision_feature_layer"):
            _check_tower(config)
            _last_read(config)
            found["vision_feature_layer"] = config.vision_feature_layer
        return found

    def inert(self, architecture: str, config: Any, kind: str) -> Mapping[int, str]:
        """Return the layers after the last hidden state that is read, with the reason."""
        first, depth = _last_read(config), config.vision_config.num_hidden_layers
        shown = config.vision_feature_layer
        reason = (
            f"this LLaVA reads hidden state {shown} of its vision tower (vision_feature_layer in config.json), which "
            f"{f'layers 0-{first - 1} write' if first else 'no layer writes'}; leave layers from {first} on out"
        )
        return dict.fromkeys(range(first, depth), reason)

    def read(self, model: Any, kind: str, companion: Any | None = None) -> Tower:
        """Read the vision tower. Raises InputError for a companion that is of another tower."""
        tower, path = self.locate(model, kind)
        settings = self.settings(model.config, kind)
        readout = None if companion is None else self._readout(model.config, companion)
        heads = tower.config.num_attention_heads
        layers = read_layers(
            Tensors.of_model(self, model, path),
            "encoder.layers",
            len(tower.encoder.layers),
            heads,
            readout,
            # The projector reads the hidden state without a norm, so its mean counts.
            write_centred=False,
        )
        return Tower(
            num_heads=heads,
            layers=layers,
            kind=kind,
            family=self.name,
            settings=settings,
            inert=self.inert(type(model).__name__, model.config, kind),
            no_words=f"LLaVA compares no pictures with texts, so it has no words of its own: {self.advice}",
        )

    def _readout(self, config: Any, companion: Any) -> Readout:
        """Return the way of the companion to its joint space."""
        own, other = config.vision_config, getattr(companion.config, "vision_config", companion.config)
        source = next((each for each in self.companions if companion.config.model_type in each.model_types), None)
        if source is None or own.model_type != other.model_type:
            raise InputError(
                f"the companion is a {type(companion).__name__}, but the vision tower of this LLaVA is a "
                f"{own.model_type}: text_model must be the model that the tower was taken from"
            )
        if own.hidden_size != other.hidden_size:
            raise InputError(
                f"the companion has width {other.hidden_size}, this tower has width {own.hidden_size}: "
                "text_model must be the model that the tower was taken from"
            )
        way = source.read(companion, "vision").readout()
        reading = (
            f"LLaVA's projector reads the patches of hidden state {config.vision_feature_layer}, and these words are "
            "what the companion reads"
        )
        return replace(
            way,
            name=f"{way.name} of the companion",
            approximation="; ".join(filter(None, (reading, way.approximation))),
            outside=frozenset(way.tensors),
        )


def _check_tower(config: Any) -> None:
    kind = config.vision_config.model_type
    if kind not in _TOWERS:
        raise UnsupportedModel(
            f"this LLaVA has a vision tower of the kind {kind!r}; supported: {', '.join(_TOWERS)}, whose layers have "
            "CLIP's parts"
        )


def _last_read(config: Any) -> int:
    """Return the largest number of a hidden state that is read: 0 is the embedding, n what layer n - 1 returns."""
    depth: int = config.vision_config.num_hidden_layers
    given = config.vision_feature_layer
    wanted: list[int] = [given] if isinstance(given, int) else list(given)
    if not wanted or any(not -depth - 1 <= number <= depth for number in wanted):
        raise InputError(
            f"config.json has vision_feature_layer {given!r}: expected hidden states from {-depth - 1} to {depth}, "
            f"since the vision tower has {depth} layers"
        )
    return max(number % (depth + 1) for number in wanted)


LLAVA = LlavaFamily(
    companions=(CLIP, SIGLIP),
    name="llava",
    model_types={"llava": ("LlavaForConditionalGeneration",)},
)
