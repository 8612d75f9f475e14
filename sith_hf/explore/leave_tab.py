"""The tab ``Leave``: download the edit, save the edited checkpoint, look at its card, publish it."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import gradio as gr

from sith_hf.errors import SithError
from sith_hf.explore.basket import Basket
from sith_hf.explore.edit_view import preview
from sith_hf.explore.explorer import Explorer
from sith_hf.explore.html import message, render
from sith_hf.explore.leave_view import push, save, title_of, write_files
from sith_hf.explore.panel import panel
from sith_hf.explore.shared import Shared
from sith_hf.files import scratch_folder

# The work of the model is done one by one.
MODEL: dict[str, Any] = {
    "api_visibility": "private",
    "show_progress": "minimal",
    "concurrency_id": "model",
    "concurrency_limit": 1,
}
OVERWRITE = "Replace another checkpoint there"
WORKING = "Measuring the effect on drawn pictures and writing the checkpoint. A large model takes minutes."


def leave_tab(shared: Shared) -> None:
    """Build the tab."""
    explorer, basket = shared.explorer, shared.basket
    title = panel(_title(Basket()), name="leave")
    basket.change(_title, basket, title, show_progress="hidden", api_visibility="private")
    _downloads(shared)
    if explorer.model is None:
        panel(message("An edited checkpoint needs the model: start again with --model."), name="leave-model")
        return
    large = gr.Checkbox(label="Accept a large edit", visible=False)
    basket.change(
        partial(_large, explorer), basket, large, show_progress="hidden", api_visibility="private",
        trigger_mode="always_last",
    )  # fmt: skip
    if explorer.local:
        _saving(shared, large)
    _pushing(shared, large)


def _downloads(shared: Shared) -> None:
    panel("<h3>Download</h3>", name="download")
    prepare = gr.Button("Prepare the files")
    said = panel(
        message(
            "edit_spec.safetensors is the edit, for sith-hf save-edited. recipe.yaml repeats it with sith-hf run."
            if shared.explorer.model is not None
            else "recipe.yaml makes the edit with sith-hf run. The edit itself needs the model (--model)."
        ),
        name="download-said",
    )
    files = gr.File(label="Files", file_count="multiple", interactive=False, visible=False)
    prepare.click(partial(_prepared, shared.explorer), shared.basket, [files, said], **MODEL)
    # Files of an earlier edit must not stay beside a new one.
    shared.basket.change(
        lambda: gr.File(value=None, visible=False),
        None,
        files,
        show_progress="hidden",
        queue=False,
        api_visibility="private",
    )


def _saving(shared: Shared, large: gr.Checkbox) -> None:
    panel("<h3>Save the edited checkpoint</h3>", name="save")
    folder = gr.Textbox(label="Folder on this machine", placeholder="edited")
    overwrite = gr.Checkbox(label=OVERWRITE)
    button = gr.Button("Save")
    said = panel(name="saved")
    given = [shared.basket, folder, overwrite, large]
    gr.on([button.click, folder.submit], partial(_saved, shared.explorer), given, said, **MODEL)


def _pushing(shared: Shared, large: gr.Checkbox) -> None:
    panel("<h3>Publish on the Hub</h3>", name="push")
    token_info = "Used once and not stored." + (
        " Empty: the token of `hf auth login`." if shared.explorer.local else " A dry run needs none."
    )
    with gr.Row():
        repo = gr.Textbox(label="Repository", placeholder="me/clip-no-beach", min_width=200)
        token = gr.Textbox(
            label="Your token with write access",
            info=token_info,
            type="password",
            min_width=200,
            max_length=400,
            html_attributes=gr.InputHTMLAttributes(autocomplete="off", spellcheck=False),
        )
    private = gr.Checkbox(label="Private, if it is new")
    with gr.Row():
        look = gr.Button("Dry run: list the files and read the card")
        send = gr.Button("Publish", variant="primary")
    said = panel(name="pushed")
    card = gr.Markdown(elem_id="card", visible=False)
    given = [shared.basket, repo, token, private, large]
    look.click(partial(_pushed, shared.explorer, True), given, [said, card, token], **MODEL)
    send.click(partial(_pushed, shared.explorer, False), given, [said, card, token], **MODEL)


def _title(basket: Basket) -> str:
    return render("leave.html.j2", title=title_of(basket), empty=not basket.items)


def _large(explorer: Explorer, basket: Basket) -> Any:
    """Ask for a confirmation of an edit above the limits; an earlier one does not count for another edit."""
    try:
        excess = preview(explorer, basket).excess
    except SithError:
        excess = ""  # the tab Edit shows the error
    return gr.Checkbox(value=False, info=f"It changes {excess}, which damages most models.", visible=bool(excess))


def _prepared(explorer: Explorer, basket: Basket) -> Iterator[tuple[Any, Any]]:
    try:
        with scratch_folder() as folder:
            paths = write_files(explorer, basket, folder)
            # Gradio copies them before the folder is removed.
            yield gr.File(value=[str(path) for path in paths], visible=True), message("The files are ready.")
    except SithError as error:
        yield gr.File(value=None, visible=False), message(str(error), alert=True)


def _saved(explorer: Explorer, basket: Basket, folder: str, overwrite: bool, large: bool) -> Iterator[str]:
    yield message(WORKING)
    try:
        view = save(explorer, basket, folder, overwrite=overwrite, large=large)
    except SithError as error:
        yield message(str(error).replace("--overwrite", f"“{OVERWRITE}”"), alert=True)
    else:
        yield render("saved.html.j2", view=view)


def _pushed(
    explorer: Explorer, dry_run: bool, basket: Basket, repo: str, token: str, private: bool, large: bool
) -> Iterator[tuple[Any, Any, Any]]:
    """Publish, or show what would be sent; then empty the field of the token."""
    yield message(WORKING), gr.Markdown(visible=False), gr.skip()
    try:
        view = push(explorer, basket, repo, token, private=private, large=large, dry_run=dry_run)
    except SithError as error:
        yield message(str(error), alert=True), gr.Markdown(visible=False), ""
    else:
        html = render("push.html.j2", view=view, dry_run=dry_run)
        yield html, gr.Markdown(value=view.card, visible=True), ""
