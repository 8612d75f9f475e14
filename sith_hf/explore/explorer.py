"""``Explorer``: what the page shows, a decomposition and perhaps its model and images."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING

from sith_hf.decomposition import Decomposition
from sith_hf.errors import InputError

if TYPE_CHECKING:
    from sith_hf.editor import SithEditor


@dataclass(frozen=True, eq=False)
class Explorer:
    """A decomposition that is open in the browser.

    Attributes:
        decomposition: the decomposition.
        source: the folder or Hub id that it was read from.
        model: the folder or Hub id of its model, loaded when first needed; None without one.
        images: a data set of images; None without one.
    """

    decomposition: Decomposition
    source: str
    model: str | None = None
    images: str | None = None
    _lock: Lock = field(default_factory=Lock, init=False, repr=False)

    @classmethod
    def open(cls, explained: str | Path, model: str | None = None, images: str | None = None) -> Explorer:
        """Read a decomposition.

        Args:
            explained: a folder or Hub id.
            model: the folder or Hub id of the decomposed model.
            images: a data set of images: folder, Hub id, or ``leaves`` or ``world``.

        Raises:
            InputError: no decomposition is there.
            ArtifactError: it is damaged.
        """
        return cls(Decomposition.from_pretrained(explained), str(explained), model, images)

    @property
    def editor(self) -> SithEditor:
        """The model with the decomposition, loaded on first use.

        Raises:
            InputError: the explorer has no model, or the decomposition is of another.
        """
        if self.model is None:
            raise InputError("this needs the model: start again with --model, the decomposed model")
        with self._lock:
            return self._loaded

    @cached_property
    def _loaded(self) -> SithEditor:
        from sith_hf.editor import SithEditor

        return SithEditor.from_pretrained(str(self.model)).with_decomposition(self.decomposition)
