"""Chromium, a served explorer, and windows that fail the test on console errors and requests to other hosts."""

from __future__ import annotations

import shutil
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect, sync_playwright

from sith_hf.concepts import ConceptDictionary
from sith_hf.decomposition import DRAWS, Decomposition
from sith_hf.editor import SithEditor
from sith_hf.explore import Explorer, Served, launch
from sith_hf.world import concepts, embedded_checkpoint, world_dataset

ROOT = Path(__file__).parents[2]
# Screenshots of every run, kept by CI.
SHOTS = ROOT / "build" / "browser"
WIDE, NARROW = (1280, 900), (400, 800)
# Texts that break a page which shows them without escaping.
HOSTILE = (
    "<script>document.title='broken'</script>",
    "<img src=x onerror=\"document.title='broken'\">",
    "\" autofocus onfocus=\"document.title='broken'",
    "${document.title='broken'}",
    "{{constructor.constructor('document.title=1')()}}",
    "</style></template><h1>broken</h1>",
    "javascript:document.title='broken'",
    "\u202eright to left",
    "long " * 200,
    "line\nbreak\x1b[31m",
)

Window = Callable[..., Page]
# A machine that does other work is slow; a page that is wrong stays wrong.
expect.set_options(timeout=30_000)


@pytest.fixture(scope="session")
def chromium() -> Iterator[Browser]:
    """Debian's Chromium."""
    path = shutil.which("chromium") or shutil.which("chromium-browser")
    assert path, "no chromium on this machine: make test-browser installs it"
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def explained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A decomposition of the embedded checkpoint, in a folder."""
    editor = SithEditor.from_pretrained(embedded_checkpoint())
    folder = tmp_path_factory.mktemp("explained") / "decomposition"
    with pytest.MonkeyPatch.context() as patch:  # the words that are shown depend on the number of draws
        patch.setattr(import_module("sith_hf.decomposition.decompose"), "DRAWS", DRAWS)
        editor.decompose(ConceptDictionary.from_texts(concepts()), images="leaves").save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def hostile(explained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with hostile concepts."""
    made = Decomposition.from_pretrained(explained)
    texts = [*HOSTILE, *made.texts[len(HOSTILE) :]]
    folder = tmp_path_factory.mktemp("hostile") / "decomposition"
    replace(made, texts=tuple(texts)).save_pretrained(folder)
    return folder


def served(explorer: Explorer) -> Served:
    """Serve an explorer at a free port; a context manager."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    return launch(explorer, port=port, wait=False)


@pytest.fixture(scope="session")
def address(explained: Path) -> Iterator[str]:
    """The address of an explorer with model and pictures."""
    with served(Explorer.open(explained, str(embedded_checkpoint()), "leaves")) as page:
        yield page.url


@pytest.fixture(scope="session")
def boat(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A picture of a boat on a road, which the embedded checkpoint takes for a car."""
    row = next(row for row in world_dataset("groups", seed=2026, pictures=12) if row["group"] == "boat/road")
    path = tmp_path_factory.mktemp("upload") / "boat.png"
    row["image"].save(path)
    return path


@pytest.fixture
def window(chromium: Browser) -> Iterator[Window]:
    """Return a function that opens an address in a window of its own.

    The test fails on an error in the console of a window, and on a request to another host.
    """
    faults: list[str] = []
    with ExitStack() as stack:

        def opened(url: str, size: tuple[int, int] = WIDE, scheme: str = "light", quiet: bool = True) -> Page:
            context = chromium.new_context(
                viewport={"width": size[0], "height": size[1]}, color_scheme=scheme, reduced_motion="reduce"
            )
            stack.callback(context.close)
            page = context.new_page()
            page.set_default_timeout(30_000)
            if quiet:  # the console of a window whose server stops is full of errors
                page.on("console", lambda m: faults.append(f"console: {m.text}") if m.type == "error" else None)
            page.on("pageerror", lambda error: faults.append(f"page: {error}"))
            page.on("dialog", lambda dialog: (faults.append(f"dialog: {dialog.message}"), dialog.dismiss()))
            page.on("request", lambda request: faults.extend(_foreign(request.url)))
            page.goto(url)
            page.get_by_role("tab").first.wait_for()
            return page

        yield opened
    assert faults == []


def _foreign(url: str) -> list[str]:
    parts = urlsplit(url)
    own = parts.scheme in ("data", "blob") or parts.hostname == "127.0.0.1"
    return [] if own else [f"request: {url}"]


def shot(page: Page, name: str) -> Path:
    """Keep a screenshot of the whole page."""
    SHOTS.mkdir(parents=True, exist_ok=True)
    path = SHOTS / f"{name}.png"
    page.screenshot(path=path, full_page=True)
    return path


def faults_of(page: Page) -> list[str]:
    """Return the serious and critical accessibility faults that axe-core finds."""
    found = Axe().run(page, options={"resultTypes": ["violations"]}).response["violations"]
    return [
        f"{fault['id']}: {fault['nodes'][0]['html'][:200]}"
        for fault in found
        if fault["impact"] in ("serious", "critical")
    ]


def open_tab(page: Page, name: str) -> None:
    """Open one of the page's tabs."""
    page.get_by_role("tab", name=name).click()
    expect(page.get_by_role("tab", name=name)).to_have_attribute("aria-selected", "true")
