"""``TowerFamily``: what the method needs to know of a family of models, and what most families answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from torch import Tensor

from sith_hf.towers.disk_names import DiskNames, disk_names
from sith_hf.towers.model_settings import tower_settings
from sith_hf.towers.text_tower import TextTower
from sith_hf.towers.tower import Tower


class TowerFamily(Protocol):
    """A family of models: one file in ``sith_hf/towers``, and one line in ``sith_hf/towers/registry.py``."""

    @property
    def name(self) -> str:
        """The name of the family, as artifacts record it."""

    @property
    def model_types(self) -> Mapping[str, tuple[str, ...]]:
        """``model_type`` in config.json to its architectures with a tower to edit; the first is the default."""

    @property
    def advice(self) -> str:
        """What to do about a model that embeds no texts, as the end of a message."""

    @property
    def tokens_first(self) -> bool:
        """Whether the output projections read ``[T, B, D]``, and not ``[B, T, D]``."""

    def towers(self, architecture: str) -> Mapping[str, str]:
        """Return the towers that can be edited: ``vision`` or ``text`` to the path of the module, empty for the root.

        The first is the default.
        """

    def nested(self, architecture: str) -> bool:
        """Return whether files of transformers 4 have the prefix of a tower that modules now lack."""

    def kept(self, architecture: str) -> str:
        """Return the beginning of names that files have as memory has, though transformers 5 writes others.

        Releases 4 and 5 both load them so; empty for none.
        """

    def prefix(self, kind: str) -> str:
        """Return the beginning of a tower's canonical names on disk, without its dot; empty if that says nothing."""

    def locate(self, root: Any, kind: str) -> tuple[Any, str]:
        """Return the module of a tower in a model, and its path; the model itself, and nothing, if it is the tower."""

    def outputs(self, tower: Any) -> Sequence[str]:
        """Return the path in a tower's module of the output projection of each layer.

        Raises:
            AttributeError: the module is no tower of this family.
        """

    def settings(self, config: Any, kind: str) -> dict[str, Any]:
        """Return the settings of a tower, from the configuration of the model or of the tower."""

    def read(self, model: Any, kind: str, companion: Any | None = None) -> Tower:
        """Read a tower of a model that :func:`sith_hf.towers.check_function` has accepted.

        Args:
            model: its tensors are referenced, never changed.
            kind: a key of :meth:`towers`.
            companion: a model that provides what the way to the joint space lacks.
        """

    def has_text(self, architecture: str) -> bool:
        """Return whether models of this class encode texts into the joint space."""

    def text(self, model: Any) -> TextTower | None:
        """Return how texts are encoded; None for a model without a text tower."""

    def inert(self, architecture: str, config: Any, kind: str) -> Mapping[int, str]:
        """Return the layers of a tower whose output reaches nothing that the model returns, with the reason."""

    def partial(self, architecture: str, config: Any, kind: str) -> Mapping[int, str]:
        """Return the layers of a tower whose output does not reach all that the model returns, with the reason."""

    def image_size(self, model: Any) -> int | None:
        """Return the side of the images that a model takes, in pixels; None if it takes any."""

    def projection(self, model: Any, kind: str) -> Any | None:
        """Return the module that follows a tower and that a model of the tower alone lacks; None if there is none."""

    def class_token(self, model: Any) -> Tensor | None:
        """Return the class token before the first layer of the vision tower, ``[D]``; None without one."""

    def embed_images(self, model: Any, pixels: Tensor, projection: Tensor | None = None) -> Tensor:
        """Return image embeddings ``[B, P]``, not normalised, as ``get_image_features`` of the library does.

        Args:
            model: a model with a vision tower.
            pixels: ``[B, 3, S, S]``, on its device and of its dtype.
            projection: ``[P, D]``, of its companion, for a model without one.

        Raises:
            InputError: the model lacks what leads to the joint space.
        """


class FamilyDefaults:
    """What most families answer: a family inherits it, and says only what is different."""

    @property
    def tokens_first(self) -> bool:
        """False: images come before tokens."""
        return False

    def nested(self, architecture: str) -> bool:
        """Return False: names on disk do not depend on the release of transformers."""
        return False

    def kept(self, architecture: str) -> str:
        """Return nothing: both releases load what transformers writes."""
        return ""

    def prefix(self, kind: str) -> str:
        """Return nothing: how names begin says nothing."""
        return ""

    def settings(self, config: Any, kind: str) -> dict[str, Any]:
        """Return the settings of a tower."""
        return tower_settings(config, kind)

    def inert(self, architecture: str, config: Any, kind: str) -> Mapping[int, str]:
        """Return nothing: every layer reaches what the model returns."""
        return {}

    def partial(self, architecture: str, config: Any, kind: str) -> Mapping[int, str]:
        """Return nothing: a layer reaches all that the model returns, or nothing of it."""
        return {}

    def projection(self, model: Any, kind: str) -> Any | None:
        """Return None: no module follows a tower."""
        return None

    def class_token(self, model: Any) -> Tensor | None:
        """Return None: there is no class token."""
        return None


def names_on_disk(family: TowerFamily, architecture: str, config: Any) -> DiskNames:
    """Return the names on disk of the parameters of a family's class (:func:`sith_hf.towers.disk_names.disk_names`)."""
    return disk_names(architecture, config, nested=family.nested(architecture), kept=family.kept(architecture))
