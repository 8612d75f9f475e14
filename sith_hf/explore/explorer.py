"""``Explorer``: what the page shows, a decomposition and perhaps its model and images."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from threading import RLock
from typing import TYPE_CHECKING, Any

from sith_hf.core.devices import AUTO, pass_device
from sith_hf.core.escaping import sanitize, shown_name
from sith_hf.decomposition import DECOMPOSITION_LAYOUT, Decomposition
from sith_hf.errors import BaseMismatch, InputError
from sith_hf.hub import find_artifact, local_path

if TYPE_CHECKING:
    from sith_hf.editor import SithEditor


@dataclass(frozen=True, eq=False)
class Explorer:
    """A decomposition that is open in the browser.

    Everything of the decomposition is in memory: what happens to its file later does not change what the page shows.

    Attributes:
        decomposition: the decomposition.
        source: the folder or Hub id that it was read from.
        model: the folder or Hub id of its model, loaded when first needed; None without one.
        images: a data set of images; None without one.
        other: what to compare with; None for nothing at the start (see :mod:`sith_hf.explore.comparison`).
        local: whether only the user of this machine reaches the page. If not, it reads and writes no path that a reader
            of the page names, and uses no token of this machine.
        path: the file of the decomposition; None for one in memory.
        device, dtype: of the model, as for :meth:`sith_hf.editor.SithEditor.from_pretrained`.
    """

    decomposition: Decomposition
    source: str
    model: str | None = None
    images: str | None = None
    other: str | None = None
    local: bool = True
    path: Path | None = None
    device: str | None = None
    dtype: str | None = None
    _lock: Any = field(default_factory=RLock, init=False, repr=False)
    _moving: Any = field(default_factory=RLock, init=False, repr=False)
    _locks: dict[str, Any] = field(default_factory=dict, init=False, repr=False)
    _kept: dict[str, Any] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        self._kept["stamp"] = self._stamp()

    @classmethod
    def open(
        cls,
        explained: str | Path,
        model: str | None = None,
        images: str | None = None,
        other: str | None = None,
        *,
        device: str | None = None,
        dtype: str | None = None,
    ) -> Explorer:
        """Read a decomposition.

        Args:
            explained: a folder or Hub id.
            model: the folder or Hub id of the decomposed model.
            images: a data set of images: folder, Hub id, or ``leaves`` for drawn pictures.
            other: what to compare with: another decomposition, the folder that ``sith-hf compare`` wrote, or with
                ``model`` a model that was fine-tuned from it.
            device, dtype: of the model, as for :meth:`sith_hf.editor.SithEditor.from_pretrained`.

        Raises:
            ArtifactError: no decomposition is there, or it is damaged.
            InputError: a path of the model or the images that does not exist.
        """
        for name in (model, images):
            if name is not None:
                local_path(name)
        path = find_artifact(explained, DECOMPOSITION_LAYOUT)
        return cls(
            Decomposition.from_pretrained(path),
            str(explained),
            model,
            images,
            other,
            path=path,
            device=device,
            dtype=dtype,
        )

    @property
    def editor(self) -> SithEditor:
        """The model with the decomposition, loaded on first use.

        Raises:
            InputError: the explorer has no model, or it cannot be loaded.
            BaseMismatch: the decomposition is of another model.
        """
        if self.model is None:
            raise InputError("this needs the model: start again with --model, the decomposed model")
        editor: SithEditor | BaseMismatch = self.kept("editor", self._load)
        if isinstance(editor, BaseMismatch):
            raise BaseMismatch(str(editor))
        return editor

    @property
    def is_loaded(self) -> bool:
        """Whether the model is in memory."""
        return "editor" in self._kept

    def kept(self, key: str, make: Callable[[], Any]) -> Any:
        """Return what ``make`` returned when it was first called for ``key``; other threads wait for it."""
        with self._lock:
            own = self._locks.setdefault(key, RLock())
        with own:
            if key not in self._kept:
                self._kept[key] = make()
            return self._kept[key]

    @contextmanager
    def running(self) -> Iterator[None]:
        """Run the model inside a ``with`` block.

        A pass on an accelerator moves the weights there and back, so that no other thread may run the model meanwhile.
        On the CPU they stay where they are, and threads do not wait.
        """
        if pass_device(self.editor.loaded.device).type == "cpu":
            yield
        else:
            with self._moving:
                yield

    def _load(self) -> SithEditor | BaseMismatch:
        """Return the model with the decomposition; the error if they do not belong together, which stays so."""
        from sith_hf.editor import SithEditor

        model = SithEditor.from_pretrained(
            str(self.model), tower=self.decomposition.tower, device=self.device, dtype=self.dtype
        )
        try:
            return model.with_decomposition(self.decomposition)
        except BaseMismatch as error:
            rounded = self.dtype is not None and self.dtype != AUTO
            why = f"; --dtype {self.dtype} may have rounded its weights: start again without it" if rounded else ""
            return BaseMismatch(f"the model does not belong to this decomposition: {error}{why}")

    def notice(self) -> str | None:
        """Return what a reader should know now: the file has changed, or the model is another; None for nothing."""
        now = self._stamp()
        if now == self._kept["stamp"]:
            editor = self._kept.get("editor")
            return _sentence(editor) if isinstance(editor, BaseMismatch) else None
        happened = "was deleted" if now is None else "has changed on disk"
        name = self.source if self.local else shown_name(self.source)
        return (
            f"{sanitize(name, 300)} {happened}. This page still shows what was read at its start; stop "
            "sith-hf explore and start it again to read the folder again."
        )

    def _stamp(self) -> tuple[int, ...] | None:
        """Return what identifies the file of the decomposition and its version; None without one."""
        try:
            found = None if self.path is None else os.stat(self.path)
        except OSError:
            return None
        return None if found is None else (found.st_ino, found.st_size, found.st_mtime_ns)


def _sentence(error: BaseMismatch) -> str:
    text = sanitize(str(error), 1000)
    return f"{text[:1].upper()}{text[1:]}."
