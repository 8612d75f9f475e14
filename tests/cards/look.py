"""``python -m tests.cards.look OUTPUT CARD...``: screenshots of cards as a page of the Hub shows them, roughly.

Light and dark, 1280 and 400 pixels wide. It needs the extra ``browser`` and Debian's Chromium.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path

from huggingface_hub import ModelCard
from markdown_it import MarkdownIt
from playwright.sync_api import sync_playwright

STYLE = """
:root { color-scheme: light dark; --ink: #1f2328; --paper: #fff; --line: #d1d9e0; --soft: #f6f8fa; --link: #0969da }
@media (prefers-color-scheme: dark) {
  :root { --ink: #f0f6fc; --paper: #0d1117; --line: #3d444d; --soft: #151b23; --link: #4493f8 }
}
body { margin: 0; background: var(--paper); color: var(--ink); font: 16px/1.5 sans-serif }
main { max-width: 880px; margin: auto; padding: 24px 16px }
h1, h2 { border-bottom: 1px solid var(--line); padding-bottom: .3em }
a { color: var(--link) } img { max-width: 100% }
table { border-collapse: collapse; display: block; overflow: auto; width: max-content; max-width: 100% }
td, th { border: 1px solid var(--line); padding: 6px 13px } tr:nth-child(2n) { background: var(--soft) }
pre { background: var(--soft); padding: 16px; overflow: auto; font-size: 85% }
"""


def page(card: Path) -> str:
    """A card as HTML; its pictures are those beside it."""
    text = card.read_text(encoding="utf-8")
    body = ModelCard(text).text if text.startswith("---\n") else text
    html = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"]).render(body)
    base = f'<base href="{card.resolve().parent.as_uri()}/">'
    return f"<!doctype html><meta charset=utf-8>{base}<style>{STYLE}</style><main>{html}</main>"


def main(output: Path, cards: list[Path]) -> None:
    """Write a picture of every card at every width and in both schemes; say which are wider than the screen."""
    output.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as playwright, tempfile.TemporaryDirectory() as work:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        for card in cards:
            (Path(work) / "card.html").write_text(page(card), encoding="utf-8")
            for scheme in ("light", "dark"):
                for width in (1280, 400):
                    shown = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
                    shown.goto((Path(work) / "card.html").as_uri())
                    wider = shown.evaluate("document.documentElement.scrollWidth > innerWidth")
                    name = f"{card.resolve().parent.name}-{card.stem}-{scheme}-{width}.png"
                    print(output / name, "is wider than the screen" if wider else "")
                    shown.screenshot(path=output / name, full_page=True)
                    shown.close()
        browser.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]), [Path(name) for name in sys.argv[2:]])
