"""Images that drive the vectors of a head, looked for in the background and kept in memory."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from threading import Lock
from typing import TYPE_CHECKING

from PIL import Image

from sith_hf.core.escaping import sanitize, shown_name
from sith_hf.errors import SithError
from sith_hf.hub import local_path
from sith_hf.images import private_copy

if TYPE_CHECKING:
    from sith_hf.explore.explorer import Explorer
    from sith_hf.grounding import GroundedPole

SHOWN, SIDE = 4, 96
"""Images of each pole, and their longer side in pixels."""

Found = Mapping[tuple[int, str], "tuple[ShownImage, ...]"]
"""(vector, pole) to its images."""


class DataUrl(str):
    """A picture as a URL. As a type of its own it is not cut as texts are, but escaped as they are."""


@dataclass(frozen=True)
class ShownImage:
    """An image that drives a pole.

    Attributes:
        label: its place in the data set and its coefficient, in words.
        picture: a picture of it, as a data URL.
        overlay: the same with the part of each patch in the coefficient; None where it is not known.
    """

    label: str
    picture: DataUrl
    overlay: DataUrl | None = None


@dataclass(eq=False)
class FoundImages:
    """What was found so far, for every window of the page.

    Attributes:
        explorer: with the model and the data set.
    """

    explorer: Explorer
    _lock: Lock = field(default_factory=Lock, init=False, repr=False)
    _found: dict[tuple[int, int, tuple[int, ...]], Found | str] = field(default_factory=dict, init=False, repr=False)

    @property
    def can_look(self) -> bool:
        """Whether images can be looked for."""
        named = self.explorer.model is not None and self.explorer.images is not None
        return named and self.explorer.decomposition.tower == "vision"

    @property
    def title(self) -> str:
        """The data set, for a person."""
        name = self.explorer.images
        if name == "leaves":
            return "1,000 drawn leaves"
        return sanitize(str(name) if local_path(str(name)) is None else shown_name(str(name)), 60)

    def known(self, layer: int, head: int, vectors: tuple[int, ...]) -> Found | None:
        """Return the images of some vectors of a head; None if they are not found yet."""
        found = self._found.get((layer, head, vectors))
        return None if isinstance(found, str) else found

    def failed(self, layer: int, head: int, vectors: tuple[int, ...]) -> str:
        """Return why the latest search for the images of some vectors failed; empty if it did not."""
        found = self._found.get((layer, head, vectors))
        return found if isinstance(found, str) else ""

    def look(self, layer: int, head: int, vectors: tuple[int, ...]) -> None:
        """Find the images that drive some vectors of a head: a pass over the data set, the first time."""
        key = (layer, head, vectors)
        # One pass at a time: each uses every core.
        with self._lock:
            if self.known(*key) is None:
                try:
                    self._found[key] = self._grounded(*key)
                except SithError as error:
                    self._found[key] = sanitize(str(error), 1000)

    def _grounded(self, layer: int, head: int, vectors: tuple[int, ...]) -> Found:
        from sith_hf.editor import SithEditor

        explorer, editor = self.explorer, self.explorer.editor
        # The hooks of this pass must not be in copies that others make of the model meanwhile.
        loaded = replace(editor.loaded, model=private_copy(editor.model))
        own = SithEditor(loaded, editor.companion, editor.history, editor.tower.kind)
        with explorer.running():
            found = own.with_decomposition(explorer.decomposition).ground(
                explorer.images, layers=[layer], heads=[head], vectors=vectors, top=len(vectors)
            )
        return {(pole.vector, pole.pole): _shown(pole, found.pictures) for pole in found.poles}


def _shown(pole: GroundedPole, pictures: Mapping[int, bytes]) -> tuple[ShownImage, ...]:
    from sith_hf.grounding import overlay

    images = pole.images[:SHOWN]
    known = [float(image.patches.abs().max()) for image in images if image.patches is not None]
    scale, sign, shown = max(known, default=0.0), 1 if pole.pole == "+" else -1, []
    for image in images:
        picture = Image.open(io.BytesIO(pictures[image.row])).convert("RGB")
        picture.thumbnail((SIDE, SIDE))
        above = None if image.patches is None else _url(overlay(picture, sign * image.patches, scale))
        name = sanitize(image.file, 60) if image.file else f"image {image.row}"
        shown.append(ShownImage(f"{name}, coefficient {image.coefficient:.3g}", _url(picture), above))
    return tuple(shown)


def _url(picture: Image.Image) -> DataUrl:
    file = io.BytesIO()
    picture.save(file, format="WEBP", quality=80)
    return DataUrl("data:image/webp;base64," + base64.b64encode(file.getvalue()).decode("ascii"))
