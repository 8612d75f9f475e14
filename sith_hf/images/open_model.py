"""``OpenModel``: what embedding images needs of a ``SithEditor``."""

from __future__ import annotations

from typing import Any, Protocol

from sith_hf.towers import LoadedModel, Tower


class OpenModel(Protocol):
    """A loaded model, one of its towers, and the whole model that it belongs to."""

    loaded: LoadedModel
    companion: LoadedModel | None

    @property
    def model(self) -> Any:
        """The ``transformers`` model."""

    @property
    def tower(self) -> Tower:
        """The tower that is explained and edited."""
