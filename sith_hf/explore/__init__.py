"""The explorer in the browser: a map of the heads, each head's vectors, search, edits and comparisons on one page.

It imports ``tuning`` and everything below. What a page shows is in ``*_view`` and ``templates``, which know nothing of
Gradio (the extra ``explore``); the widgets are in ``*_tab``.
"""

from sith_hf.explore.address import check_address, is_loopback
from sith_hf.explore.explorer import Explorer
from sith_hf.explore.launch import Served, build_app, launch
from sith_hf.explore.space import PushedSpace, push_space

__all__ = [
    "Explorer",
    "PushedSpace",
    "Served",
    "build_app",
    "check_address",
    "is_loopback",
    "launch",
    "push_space",
]
