"""What an editor writes: edited and reverted checkpoints, in folders and on the Hub."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Unpack

from sith_hf.checkpoint import write as checkpoint
from sith_hf.edits.spec import EditSpec
from sith_hf.errors import InputError
from sith_hf.hub.package import Pushed, PushOptions, check_options
from sith_hf.publish import push_edited, scratch_folder
from sith_hf.towers.loading import LoadedModel


@dataclass(frozen=True, eq=False)
class Saving:
    """The part of :class:`sith_hf.editor.SithEditor` that writes; its attributes are told there."""

    loaded: LoadedModel
    companion: LoadedModel | None = None
    history: tuple[EditSpec, ...] = ()

    def save_pretrained(
        self, folder: str | Path, spec: EditSpec, *, overwrite: bool = False, progress: bool = False
    ) -> checkpoint.SavedCheckpoint:
        """Write a copy of the checkpoint that this editor was loaded from, edited.

        Arguments and results are those of :func:`sith_hf.checkpoint.write.save_edited`.

        Raises:
            InputError: also when the model was made in memory, so that there is no checkpoint to copy.
        """
        return checkpoint.save_edited(self._source(), spec, folder, overwrite=overwrite, progress=progress)

    def push_to_hub(
        self,
        repo_id: str,
        spec: EditSpec,
        *,
        evaluation: Mapping[str, Any] | None = None,
        **options: Unpack[PushOptions],
    ) -> Pushed:
        """Publish the checkpoint that this editor was loaded from, edited (see :func:`sith_hf.publish.push_edited`).

        Args:
            repo_id: ``namespace/name``; a name alone goes into the namespace of the token's user.
            spec: the edit.
            evaluation: measured results for the card.
            options: ``private``, ``revision``, ``create_pr``, ``commit_message``, ``token``, ``overwrite_card``,
                ``dry_run`` (see :class:`sith_hf.hub.package.PushOptions`).

        Raises:
            InputError, BaseMismatch, OutputError: as for :meth:`save_pretrained`, and options or a repository that
                do not go together with this.
            HubError: the Hub refused, failed or could not be reached; the message says what stands there.
        """
        check_options(options)
        with scratch_folder() as scratch:
            self.save_pretrained(scratch / "edited", spec)
            return push_edited(scratch / "edited", repo_id, evaluation=evaluation, **options)

    def revert(
        self, folder: str | Path, *, overwrite: bool = False, progress: bool = False
    ) -> checkpoint.SavedCheckpoint:
        """Write a copy of the checkpoint with its newest edit taken out (see :func:`sith_hf.checkpoint.write.revert`)."""
        return checkpoint.revert(self._source(), folder, overwrite=overwrite, progress=progress)

    def with_history(self, spec: EditSpec) -> EditSpec:
        """The edits of ``history`` and ``spec`` as one edit of the base that the oldest of them was made for.

        Raises:
            BaseMismatch: they do not compose, as where a later edit changes layers that an earlier one changed.
        """
        whole = spec
        for earlier in self.history:
            whole = earlier.compose(whole)
        return whole

    def _source(self) -> Path:
        name, folder = self.loaded.name, self.loaded.folder
        if name == "in memory":
            raise InputError("this model has no checkpoint to copy: save it with save_pretrained, and open that folder")
        return folder or checkpoint.locate(name, self.loaded.revision)
