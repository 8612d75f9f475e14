"""The method ``push_to_hub`` of edit specs, decompositions and dictionaries."""

from __future__ import annotations

from typing import Unpack

from sith_hf.hub.package import PushOptions, PushResult


class Pushable:
    """An artifact that can be pushed to the Hub."""

    __slots__ = ()

    def push_to_hub(self, repo_id: str, **options: Unpack[PushOptions]) -> PushResult:
        """Push this to its own repository, with a card, in one commit.

        An edit spec goes into a model repository; a decomposition or a dictionary into a dataset repository, with a
        table that the Hub's viewer shows and ``datasets.load_dataset`` reads. ``from_pretrained`` reads them all.

        Args:
            repo_id: ``namespace/name``; a name alone belongs to the user of the token.
            options: see :class:`sith_hf.hub.PushOptions`.

        Raises:
            InputError: options that exclude each other, or a repository that holds something else.
            HubError: the Hub refused, failed or could not be reached.
        """
        # The one import against the order of rooms: publishing needs the card, and the card needs these classes.
        from sith_hf.publish import push_artifact

        return push_artifact(self, repo_id, **options)
