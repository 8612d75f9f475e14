"""Measure the effect of an edit on a checkpoint before it is written, or say why that is not possible."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sith_hf.checkpoint import folder_effect, history, locate
from sith_hf.editor.editor import SithEditor
from sith_hf.edits import AnySpec, EditEffect
from sith_hf.errors import SithError
from sith_hf.evaluation import image_options, measure_effect, names_concepts, unmeasurable
from sith_hf.images import DatasetSettings
from sith_hf.towers import config_json, family_of_config


@dataclass(frozen=True)
class Proof:
    """What :func:`sith_hf.checkpoint.save_edited` calls to measure an edit.

    Attributes:
        images: a dataset; drawn leaves when None.
        text_model: for a checkpoint of one tower, the whole model that it belongs to.
        token: a Hub token.
        device, dtype: of the model, as for :meth:`sith_hf.editor.SithEditor.from_pretrained`.
        editor: an editor of the base, if it is at hand.
        say: called with a line if the effect cannot be measured.
        progress: show bars on stderr.
    """

    images: DatasetSettings | None = None
    text_model: str | None = None
    token: str | None = None
    editor: SithEditor | None = None
    say: Callable[[str], object] = lambda line: None
    progress: bool = False
    device: str | None = None
    dtype: str | None = None

    def __call__(self, folder: Path, spec: AnySpec, earlier: EditEffect | None) -> EditEffect | None:
        """Return the effect of an edit of the checkpoint in ``folder``; None if it cannot be measured.

        ``earlier`` is the effect of the same edit in the target, which is returned if it was measured on these images.

        Raises:
            InputError: as for :func:`sith_hf.evaluation.measure_effect`.
        """
        if earlier is not None and earlier.images.options == image_options(self.images):
            return earlier
        reason = None if self.editor is not None else self._hopeless(folder)
        if reason is None:
            editor = self.editor or self._opened(folder)
            reason = unmeasurable(editor)
            if reason is None:
                return measure_effect(editor, spec, self.images, progress=self.progress)
        self.say(f"the effect of the edit was not measured: {reason}")
        return None

    def _opened(self, folder: Path) -> SithEditor:
        placed: dict[str, Any] = {"device": self.device, "dtype": self.dtype}
        editor = SithEditor.from_pretrained(folder, text_model=self.text_model, token=self.token, **placed)
        editor.loaded.require_exact()
        return editor

    def of_folder(self, folder: Path) -> EditEffect | None:
        """Return the effect of the edit in an edited checkpoint: as recorded, else measured on its base.

        None if it cannot be measured, such as without the base.

        Raises:
            InputError: as for calling this, or a damaged record.
        """
        spec, known = next(iter(history(folder)), None), folder_effect(folder)
        if spec is None or known is not None or not names_concepts(spec):
            return known
        try:
            base = locate(spec.base.name, spec.base.revision, self.token)
        except SithError as error:
            self.say(f"the effect of the edit was not measured: its base is not at hand ({error})")
            return None
        return self(base, spec, None)

    def _hopeless(self, folder: Path) -> str | None:
        """Return why a checkpoint's effects cannot be measured as far as its configuration says, before loading it."""
        family, architecture = family_of_config(config_json(folder, "save the checkpoint again"))
        if "vision" not in family.towers(architecture):
            return f"a {architecture} has no vision tower"
        if self.text_model is None and not family.has_text(architecture):
            return f"a {architecture} has no texts: {family.advice}"
        return None
