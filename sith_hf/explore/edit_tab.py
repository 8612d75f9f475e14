"""The tab ``Edit``: the basket with its sliders, what it changes, and pictures before and after."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.utils import get_upload_folder

from sith_hf.edits import EditSpec
from sith_hf.errors import InputError, SithError
from sith_hf.explore.basket import HIGHEST, LONGEST, LOWEST, Basket, Item
from sith_hf.explore.edit_view import draft, preview, words_of
from sith_hf.explore.explorer import Explorer
from sith_hf.explore.html import message, render
from sith_hf.explore.panel import panel, sent
from sith_hf.explore.picture_view import (
    TEMPLATE,
    Picture,
    PictureView,
    compare_grid,
    compare_picture,
    default_labels,
    read_labels,
    read_picture,
)
from sith_hf.explore.shared import BASKET, Shared
from sith_hf.explore.where_view import where_in
from sith_hf.gains import MOST_DRIFT, MOST_ENERGY, Gains

PRIVATE: dict[str, Any] = {"api_visibility": "private"}
QUICK: dict[str, Any] = {**PRIVATE, "show_progress": "hidden"}
# The work of the model is done one by one; of what a window asks meanwhile, only the last counts.
MODEL: dict[str, Any] = {
    **PRIVATE,
    "show_progress": "minimal",
    "trigger_mode": "always_last",
    "concurrency_id": "model",
    "concurrency_limit": 1,
}


LOADING = "Loading the model. A large one takes a minute."


def edit_tab(shared: Shared) -> None:
    """Build the tab."""
    explorer, basket = shared.explorer, shared.basket
    listed = gr.State(())
    with gr.Row(elem_classes="sith-edit"):
        with gr.Column(min_width=300):
            items = panel(_basket_html(explorer, Basket()), name="basket")
            with gr.Row(elem_classes="sith-add"):
                concept = gr.Textbox(
                    label="Add a concept", placeholder="beach", max_length=LONGEST, scale=3, min_width=120
                )
                add = gr.Button("Add", scale=1, min_width=80)
            said = panel(name="basket-said")
        with gr.Column(min_width=300):
            summary = panel(_summary(explorer, Basket()), name="edit")
    items.input(_with_gain, basket, basket, **BASKET)
    items.click(_without, basket, basket, **BASKET)
    gr.on([add.click, concept.submit], _added, [concept, basket], [concept, basket, said], **BASKET)
    basket.change(partial(_list, explorer), [basket, listed], [items, listed], trigger_mode="always_last", **QUICK)
    basket.change(partial(_summaries, explorer), basket, summary, **{**MODEL, "concurrency_id": "edit"})
    _pictures(shared)


def _pictures(shared: Shared) -> None:
    """Build the part with pictures."""
    explorer = shared.explorer
    panel("<h2>Before and after</h2>", name="before-after")
    if explorer.model is None:
        panel(message("Pictures need the model: start again with --model, the decomposed model."), name="no-model")
        return
    with gr.Row():
        with gr.Column(min_width=300):
            labels = gr.Textbox(
                default_labels(explorer),
                label="Labels, with commas between them",
                info=f"The prompt is “{TEMPLATE}”.",
                max_length=4000,
            )
            upload = gr.File(label="Your picture (it is not kept)", height=130, elem_id="upload")
            compare = gr.Button("Compare", variant="primary")
        with gr.Column(scale=2, min_width=300):
            shown = panel(message("Choose a picture to see its labels before and after."), name="picture")
            where = panel(name="where")
    grid = panel(message("Compare shows a few pictures with their labels before and after."), name="grid")
    picture, asked = gr.State(None), gr.State(False)
    upload.upload(
        partial(_taken, explorer), upload, [upload, picture, shown, where], **{**MODEL, "trigger_mode": "once"}
    )
    given, views = [shared.basket, picture, labels], [shown, where, grid, asked]
    gr.on([compare.click, labels.submit, picture.change], partial(_compared, explorer), given, views, **MODEL)
    shared.basket.change(partial(_compared_again, explorer), [asked, *given], views, **MODEL)


def _basket_html(explorer: Explorer, basket: Basket) -> str:
    words = {item.key: words_of(explorer.decomposition, item) for item in basket.items}
    return render("basket.html.j2", basket=basket, words=words, lowest=LOWEST, highest=HIGHEST)


def _list(explorer: Explorer, basket: Basket, listed: tuple[str, ...]) -> tuple[Any, Any]:
    """Draw the basket again if its items are others: a slider that moves keeps the keyboard's focus."""
    keys = tuple(item.key for item in basket.items)
    return (gr.skip(), gr.skip()) if keys == listed else (_basket_html(explorer, basket), keys)


def _summaries(explorer: Explorer, basket: Basket) -> Iterator[str]:
    if basket.items and explorer.model is not None and not explorer.is_loaded:
        yield message(LOADING)
    yield _summary(explorer, basket)


def _summary(explorer: Explorer, basket: Basket) -> str:
    try:
        view = preview(explorer, basket)
    except SithError as error:
        return message(str(error), alert=True)
    return render("edit.html.j2", view=view, most_energy=MOST_ENERGY, most_drift=MOST_DRIFT)


def _with_gain(basket: Basket, event: gr.EventData) -> Basket:
    try:
        data = sent(event)
        return basket.with_gain(data.get("key", ""), float(data.get("value", "")))
    except (SithError, ValueError):
        return basket


def _without(basket: Basket, event: gr.EventData) -> Basket:
    try:
        data = sent(event)
    except InputError as error:
        raise gr.Error(str(error), print_exception=False) from None
    return Basket() if data.get("action") == "clear" else basket.without(data.get("key", ""))


def _added(concept: str, basket: Basket) -> tuple[Any, Basket, str]:
    try:
        return "", basket.added(Item(0.0, concept=concept.strip())), ""
    except SithError as error:
        return gr.skip(), basket, message(str(error), alert=True)


def _taken(explorer: Explorer, path: str | None) -> tuple[Any, ...]:
    """Read an uploaded file, and delete it."""
    if path is None:
        return None, None, gr.skip(), gr.skip()
    try:
        return None, read_picture(explorer, path), gr.skip(), ""
    except SithError as error:
        return None, None, message(str(error), alert=True), ""
    finally:
        _delete_upload(Path(path))


def _delete_upload(path: Path) -> None:
    """Delete an uploaded file with the folder that Gradio gave it; nothing for a path that a program made up."""
    if path.parent.parent == Path(get_upload_folder()):
        shutil.rmtree(path.parent, ignore_errors=True)


def _compared_again(
    explorer: Explorer, asked: bool, basket: Basket, picture: Picture | None, labels: str
) -> Iterator[tuple[Any, ...]]:
    """Compare again after a change of the basket, if pictures are shown."""
    if asked:
        yield from _compared(explorer, basket, picture, labels)
    else:
        yield (gr.skip(),) * 4


def _compared(explorer: Explorer, basket: Basket, picture: Picture | None, labels: str) -> Iterator[tuple[Any, ...]]:
    """Show the picture, then the pictures of the grid, then the place in the picture."""
    skip = gr.skip()
    if not explorer.is_loaded:
        yield message(LOADING), skip, skip, skip
    try:
        names = read_labels(labels)
        found = draft(explorer, basket)
        spec = None if found.edit is None else found.edit.spec
        if picture is not None:
            view = compare_picture(explorer, spec, picture, names)
            yield _picture_html(picture, view, spec), skip, skip, True
        grid = compare_grid(explorer, spec, names)
        yield skip, skip, render("grid.html.j2", view=grid, edited=bool(spec)), True
        if picture is not None:
            yield skip, _where_html(explorer, found.gains, picture), skip, True
    except SithError as error:
        yield message(str(error), alert=True), "", "", True


def _picture_html(picture: Picture, view: PictureView, spec: EditSpec | None) -> str:
    changed = f", edited: {view.edited}" if spec else ""
    alt = f"Your picture. Base: {view.base}{changed}"
    return render("picture.html.j2", shown=picture.shown, alt=alt, view=view, edited=bool(spec), prompt=TEMPLATE)


def _where_html(explorer: Explorer, gains: Gains, picture: Picture) -> str:
    if all(gain == 1 for gain in gains.gain.values()):
        return ""
    try:
        return render("where.html.j2", view=where_in(explorer, gains, picture))
    except SithError as error:
        return message(f"Where in the picture: {error}")
