"""``push_to_hub`` for what is published by its own class: edit specs, decompositions, dictionaries."""

from __future__ import annotations

from typing import Unpack

from sith_hf.hub.package import PushOptions, PushResult


class Pushable:
    """A result that knows its way to the Hub, beside ``save_pretrained`` and ``from_pretrained``."""

    __slots__ = ()

    def push_to_hub(self, repo_id: str, **options: Unpack[PushOptions]) -> PushResult:
        """Publish this in a repository of its own, with a card, in one commit.

        An edit spec goes into a model repository; a decomposition or a dictionary into a dataset repository, with a
        table that the Hub's viewer shows and ``datasets.load_dataset`` reads. ``from_pretrained`` reads them all.

        Args:
            repo_id: ``namespace/name``; a name alone goes into the namespace of the token's user.
            options: ``private``, ``revision``, ``create_pr``, ``commit_message``, ``token``, ``overwrite_card``,
                ``dry_run`` (see :class:`sith_hf.hub.PushOptions`).

        Raises:
            InputError: options that exclude each other, or a repository that holds something else.
            HubError: the Hub refused, failed or could not be reached.
        """
        # The one import against the order of modules: what is published needs its card, and a card what it is about.
        from sith_hf.publish import push_artifact

        return push_artifact(self, repo_id, **options)
