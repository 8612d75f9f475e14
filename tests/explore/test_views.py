"""What a page shows knows nothing of Gradio."""

import ast
from importlib.resources import files

ROOM = files("sith_hf.explore")
WIDGETS = {"app", "panel", "shared"}


def imports(source):
    """The top-level packages that a source imports, also inside functions."""
    nodes = list(ast.walk(ast.parse(source)))
    names = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    names += [str(node.module) for node in nodes if isinstance(node, ast.ImportFrom)]
    return {name.partition(".")[0] for name in names}


def modules():
    return {path.name.removesuffix(".py"): path.read_text() for path in ROOM.iterdir() if path.name.endswith(".py")}


def test_only_widgets_import_gradio():
    found = {name for name, source in modules().items() if "gradio" in imports(source)}
    assert {name for name in found if not name.endswith("_tab")} <= {*WIDGETS, "launch"}
    assert "map_tab" in found, "the control"
    assert {name for name in modules() if name.endswith("_view")} >= {"map_view", "head_view", "search_view"}
