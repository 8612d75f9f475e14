"""The tab with the map and the open head."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import gradio as gr

from sith_hf.core.escaping import sanitize
from sith_hf.errors import InputError, SithError
from sith_hf.explore.basket import Basket
from sith_hf.explore.edit_view import draft
from sith_hf.explore.embedding import embedding_of, meant_by
from sith_hf.explore.explorer import Explorer
from sith_hf.explore.found_images import FoundImages
from sith_hf.explore.head_view import PAGE, head_view
from sith_hf.explore.html import render
from sith_hf.explore.map_view import MapView, concept_map, edit_map, energy_map, unknown_map
from sith_hf.explore.panel import panel, sent
from sith_hf.explore.search_view import LONGEST
from sith_hf.explore.shared import Shared

COLOURS = [("energy beyond chance", "energy"), ("a concept", "concept"), ("the edit", "edit")]

Head = tuple[int, int]
Colour = tuple[str, str]

QUICK: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}


def map_tab(shared: Shared) -> None:
    """Build the tab."""
    explorer = shared.explorer
    with gr.Row(elem_classes="sith-split"):
        with gr.Column(scale=4, min_width=320, elem_classes="sith-left"):
            chosen = gr.Radio(COLOURS, value="energy", label="Colour the heads by")
            concept = gr.Textbox(
                label="Concept", placeholder="such as beach, then Enter", visible=False, max_length=LONGEST
            )
            start = map_html(explorer, ("energy", ""), first_head(explorer), Basket())
            part = panel(start, name="map", scripts=["map.js"])
        with gr.Column(scale=5, min_width=320):
            _head_part(shared)
    shared.listen(part)

    def coloured(colour: Colour, place: Head, basket: Basket) -> tuple[str, gr.Textbox, str]:
        box = gr.Textbox(colour[1], visible=colour[0] == "concept")
        return colour[0], box, map_html(explorer, colour, place, basket)

    def of_basket(colour: Colour, place: Head, basket: Basket) -> Any:
        return map_html(explorer, colour, place, basket) if colour[0] == "edit" else gr.skip()

    def named(kind: str, text: str | None) -> Colour:
        return kind, text or ""  # a box that is not shown has no text

    gr.on([chosen.input, concept.submit], named, [chosen, concept], shared.colour, **QUICK)
    state = [shared.colour, shared.head, shared.basket]
    # The first text that the model encodes waits for the model.
    shared.colour.change(coloured, state, [chosen, concept, part], **{**QUICK, "show_progress": "minimal"})
    shared.basket.change(of_basket, state, part, **QUICK)


def first_head(explorer: Explorer) -> Head:
    """Return the head that is open at the start."""
    return explorer.decomposition.layers[-1], 0


def map_html(explorer: Explorer, colour: Colour, place: Head, basket: Basket) -> str:
    """Return the map as HTML; what is wrong stands in it."""
    return render("map.html.j2", view=_map(explorer, *colour, basket), open=tuple(place))


def _map(explorer: Explorer, chosen: str, text: str, basket: Basket) -> MapView:
    decomposition, concept = explorer.decomposition, " ".join(text.split())
    try:
        if chosen == "edit":
            return edit_map(decomposition, draft(explorer, basket).gains.gain)
        if chosen == "concept":
            if not concept:
                return unknown_map(decomposition, "A concept", "", "Write a concept, and press Enter.")
            return concept_map(decomposition, concept, embedding_of(explorer, concept)[0])
    except SithError as error:
        meant = meant_by(explorer, concept) if concept else ""
        problem = f"{error}. Did you mean {sanitize(meant)}?" if meant else str(error)
        return unknown_map(decomposition, f"The {chosen}", problem)
    return energy_map(decomposition)


def _head_part(shared: Shared) -> None:
    """Build the open head: a page of its vectors, and the images that drive them where they are asked for."""
    explorer, images = shared.explorer, FoundImages(shared.explorer)
    # The page of vectors, and how often images were asked for.
    page, asked = gr.State(0), gr.State(0)
    start = head_html(explorer, images, first_head(explorer), 0)
    part = panel(start, name="head", scripts=["head.js"])
    shared.listen(part)

    def acted(page: int, asked: int, event: gr.EventData) -> tuple[int, int]:
        try:
            match sent(event):
                case {"action": "page", "page": number} if number.isdecimal():
                    return int(number), asked
                case {"action": "look"}:
                    return page, asked + 1
        except (InputError, ValueError):  # Shared.listen shows the error of the same click
            pass
        return page, asked

    def looked(place: Head, page: int) -> Iterator[str]:
        yield head_html(explorer, images, place, page, looking=True)
        images.look(*place, numbers_of(explorer, page))

    def drawn(place: Head, page: int) -> str:
        return head_html(explorer, images, place, page)

    part.click(acted, [page, asked], [page, asked], **QUICK)
    shared.head.change(lambda place: (0, drawn(place, 0)), shared.head, [page, part], **QUICK)
    page.change(drawn, [shared.head, page], part, **QUICK)
    # In the end another head may be open, which the second event draws.
    looking = asked.change(looked, [shared.head, page], part, **QUICK)
    looking.then(drawn, [shared.head, page], part, **QUICK)


def numbers_of(explorer: Explorer, page: int) -> tuple[int, ...]:
    """Return the numbers of the vectors on a page."""
    return tuple(range(page * PAGE, min((page + 1) * PAGE, explorer.decomposition.rank)))


def head_html(explorer: Explorer, images: FoundImages, place: Head, page: int, *, looking: bool = False) -> str:
    """Return a page of a head as HTML."""
    numbers = numbers_of(explorer, page)
    known = images.known(*place, numbers)
    view = head_view(
        explorer.decomposition,
        *place,
        page,
        images=known,
        about_images=images.failed(*place, numbers) or _about_images(explorer, images, known is not None, looking),
        can_look=images.can_look and known is None and not looking,
    )
    return render("head.html.j2", view=view, size=PAGE)


def _about_images(explorer: Explorer, images: FoundImages, known: bool, looking: bool) -> str:
    if explorer.decomposition.tower != "vision":
        return ""
    if known:
        return (
            f"Images of {images.title} with the largest coefficients; beside each, where in it the coefficient comes "
            "from: orange raises it towards the pole, blue lowers it."
        )
    if looking:
        return f"Looking through {images.title} for images that drive these vectors; the page can be used meanwhile."
    if images.can_look:
        return f"Images of {images.title} can be shown beside the words."
    return "To see the images that drive a vector, start with --model and --images, such as --images leaves."
