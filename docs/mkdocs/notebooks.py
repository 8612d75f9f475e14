"""The executed notebooks as pages of the site: text, code and stored outputs. Nothing runs when the site is built."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator, Mapping
from html import escape
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File

LINK = re.compile(r"(\]\([^)\s]*?)\.ipynb(?=#|\)(?!\{))")


def page(notebook: Mapping[str, Any], name: str) -> tuple[str, dict[str, bytes]]:
    """The Markdown of a notebook, and its pictures by file name."""
    pictures: dict[str, bytes] = {}
    parts = [f"[This notebook]({name}.ipynb){{ download }} runs as it is.\n"]
    for number, cell in enumerate(notebook["cells"]):
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(f"{source}\n")
        elif cell["cell_type"] == "code":
            parts.append(f"```python\n{source}\n```\n")
            parts += outputs(cell["outputs"], f"{name}-{number}", pictures)
    # The title of the notebook stays the first heading.
    return "\n".join([parts[1], parts[0], *parts[2:]]), pictures


def outputs(found: list[Mapping[str, Any]], name: str, pictures: dict[str, bytes]) -> Iterator[str]:
    """The Markdown of the outputs of a cell, each in its richest form; pictures are added to ``pictures``."""
    for number, item in enumerate(found):
        data = item.get("data", {"text/plain": item.get("text", "")})
        if "text/html" in data:
            # A blank line would end the block of HTML.
            lines = [line for line in "".join(data["text/html"]).splitlines() if line.strip()]
            yield '<div class="output">' + "\n".join(lines) + "</div>\n"
        elif "image/png" in data:
            file = f"{name}-{number}.png"
            pictures[file] = base64.b64decode(data["image/png"])
            text = escape("".join(data.get("text/plain", "")), quote=True)
            yield f'<div class="output"><img src="{file}" alt="{text}"></div>\n'
        else:
            text = escape("".join(data["text/plain"]).rstrip())
            yield f'<pre class="output" style="white-space:pre-wrap">{text}</pre>\n'


def on_files(files: Any, config: Any) -> Any:
    """Add a page for each notebook; the notebook itself stays, to download."""
    for path in sorted((Path(config.docs_dir) / "notebooks").glob("*.ipynb")):
        content, pictures = page(json.loads(path.read_text(encoding="utf-8")), path.stem)
        files.append(File.generated(config, f"notebooks/{path.stem}.md", content=content))
        for name, picture in pictures.items():
            files.append(File.generated(config, f"notebooks/{name}", content=picture))
    return files


def on_page_markdown(markdown: str, **kwargs: Any) -> str:
    """Link to the page of a notebook in place of its file, except to download it."""
    return LINK.sub(r"\1.md", markdown)
