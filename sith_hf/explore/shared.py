"""What the tabs of the page share: the explorer, the open head, the basket, and the actions that change them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gradio as gr
from gradio.components import Component

from sith_hf.errors import InputError, SithError
from sith_hf.explore.basket import Basket, Item
from sith_hf.explore.explorer import Explorer
from sith_hf.explore.panel import sent

# Quick clicks are all carried out, one after the other: each starts from the basket that the last one left.
BASKET: dict[str, Any] = {
    "trigger_mode": "multiple",
    "concurrency_id": "basket",
    "concurrency_limit": 1,
    "show_progress": "hidden",
    "api_visibility": "private",
}


@dataclass(frozen=True, eq=False)
class Shared:
    """The state of one browser window.

    Attributes:
        explorer: what is shown; the same in every window.
        head: (layer, head) of the open head. Its ``change`` event redraws what shows it.
        basket: the :class:`Basket`. Its ``change`` event redraws what shows it.
        tabs: the tabs; an action may select one.
        query: the text that is searched for. Its ``change`` event searches.
        colour: what colours the map, ``"energy"``, ``"concept"`` or ``"edit"``, and a concept. Its ``change`` event
            redraws it.
    """

    explorer: Explorer
    head: gr.State
    basket: gr.State
    tabs: gr.Tabs
    query: gr.State
    colour: gr.State

    def listen(self, part: gr.HTML) -> None:
        """Carry out the actions that buttons of ``part`` send.

        ``open`` a head, ``add`` a vector or concept to the basket, ``search`` for a concept, ``colour`` the map by one.
        """
        part.click(
            self._act,
            self.basket,
            [self.head, self.basket, self.tabs, self.query, self.colour],
            **BASKET,
        )

    def _act(self, basket: Basket, event: gr.EventData) -> dict[Component | gr.Tabs, Any]:
        """Return the new values of what an action changes."""
        try:
            data = sent(event)
            match data:
                case {"action": "open"}:
                    return {self.head: self.place(data)[:2], self.tabs: gr.Tabs(selected="map")}
                case {"action": "add", "concept": concept}:
                    return {self.basket: basket.added(Item(0.0, concept=concept))}
                case {"action": "add"}:
                    return {self.basket: basket.added(Item(0.0, vector=self.place(data)))}
                case {"action": "search", "concept": concept}:
                    return {self.query: concept, self.tabs: gr.Tabs(selected="search")}
                case {"action": "colour", "concept": concept}:
                    return {self.colour: ("concept", concept), self.tabs: gr.Tabs(selected="map")}
        except SithError as error:
            raise gr.Error(str(error), print_exception=False) from None
        return {self.basket: basket}

    def place(self, data: dict[str, str]) -> tuple[int, int, int]:
        """Return (layer, head, vector) of an action, vector 0 if it names none. Raises InputError for others."""
        try:
            layer, head, vector = int(data["layer"]), int(data["head"]), int(data.get("vector", "0"))
        except (KeyError, ValueError):
            raise InputError("the page sent an action that is not known: load it again") from None
        self.explorer.decomposition.place(layer, head, vector)
        return layer, head, vector
