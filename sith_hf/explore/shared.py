"""What the tabs of the page share: the explorer, the open head, the basket, and the actions that change them."""

from __future__ import annotations

from dataclasses import dataclass

import gradio as gr

from sith_hf.errors import InputError, SithError
from sith_hf.explore.basket import Basket, Item
from sith_hf.explore.explorer import Explorer
from sith_hf.explore.panel import sent


@dataclass(frozen=True, eq=False)
class Shared:
    """The state of one browser window.

    Attributes:
        explorer: what is shown; the same in every window.
        head: (layer, head) of the open head. Its ``change`` event redraws what shows it.
        basket: the :class:`Basket`. Its ``change`` event redraws what shows it.
        tabs: the tabs; an action may select one.
    """

    explorer: Explorer
    head: gr.State
    basket: gr.State
    tabs: gr.Tabs

    def listen(self, part: gr.HTML) -> None:
        """Carry out the actions that buttons of ``part`` send: ``open`` a head, ``add`` a vector or concept."""
        part.click(
            self._act,
            [self.head, self.basket],
            [self.head, self.basket, self.tabs],
            show_progress="hidden",
            api_visibility="private",
        )

    def _act(
        self, head: tuple[int, int], basket: Basket, event: gr.EventData
    ) -> tuple[tuple[int, int], Basket, gr.Tabs | dict[str, object]]:
        try:
            data = sent(event)
            match data.get("action"):
                case "open":
                    layer, number, _ = self.place(data)
                    return (layer, number), basket, gr.Tabs(selected="map")
                case "add" if "concept" in data:
                    return head, basket.added(Item(0.0, concept=data["concept"])), gr.skip()
                case "add":
                    return head, basket.added(Item(0.0, vector=self.place(data))), gr.skip()
        except SithError as error:
            raise gr.Error(str(error), print_exception=False) from None
        return head, basket, gr.skip()

    def place(self, data: dict[str, str]) -> tuple[int, int, int]:
        """Return (layer, head, vector) of an action, vector 0 if it names none. Raises InputError for others."""
        try:
            layer, head, vector = int(data["layer"]), int(data["head"]), int(data.get("vector", "0"))
        except (KeyError, ValueError):
            raise InputError("the page sent an action that is not known: load it again") from None
        self.explorer.decomposition.place(layer, head, vector)
        return layer, head, vector
