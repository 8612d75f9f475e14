"""A part of the page that shows HTML, whose buttons send actions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Any

import gradio as gr

from sith_hf.errors import InputError


def panel(value: str = "", *, name: str, scripts: Sequence[str] = (), **options: Any) -> gr.HTML:
    """Return a part of the page with id ``name`` that shows ``value``.

    An element with ``data-action`` sends its ``data-*`` values, texts, as the part's ``click`` event; an input with it
    sends ``value`` also, as ``input``. ``scripts`` names more files of ``static`` that are run for it.
    """
    return gr.HTML(value, elem_id=name, js_on_load="\n".join(map(_script, ("panel.js", *scripts))), **options)


def _script(name: str) -> str:
    return (files("sith_hf.explore") / "static" / name).read_text(encoding="utf-8")


def sent(event: gr.EventData) -> dict[str, str]:
    """Return the values of an action. Raises InputError for data that no part of the page sends."""
    data = event._data
    if not isinstance(data, Mapping) or not all(isinstance(x, str) for pair in data.items() for x in pair):
        raise InputError("the page sent an action that is not known: load it again")
    return dict(data)
