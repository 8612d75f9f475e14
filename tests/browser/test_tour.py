"""A tour of the page that makes the pictures of the README and the guide: ``make docs-images`` copies them."""

from __future__ import annotations

from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import pytest
from PIL import Image
from playwright.sync_api import Page, expect

from sith_hf.explore import Explorer
from sith_hf.world import embedded_checkpoint, world_dataset
from tests.browser.conftest import SHOTS, Window, open_tab, served

TOUR = SHOTS / "tour"
SIZE = (1120, 1180)


@pytest.fixture(scope="module")
def drawn(explained: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of an explorer with a folder of pictures of the drawn world."""
    TOUR.mkdir(parents=True, exist_ok=True)
    folder = tmp_path_factory.mktemp("pictures", numbered=False)
    for number, row in enumerate(world_dataset("groups", seed=4026, pictures=24)):
        row["image"].save(folder / f"{number:03}.png")
    with served(Explorer.open(explained, str(embedded_checkpoint()), str(folder))) as page:
        yield page.url


def keep(page: Page, name: str) -> Image.Image:
    """Keep the window as a picture of few colours."""
    path = TOUR / f"{name}.png"
    frame(page).quantize(128).save(path, optimize=True)
    return Image.open(path)


def frame(page: Page) -> Image.Image:
    """Return the window as a picture."""
    return Image.open(BytesIO(page.screenshot(animations="disabled"))).convert("RGB")


def test_a_head_and_a_search(window: Window, drawn: str) -> None:
    page = window(drawn, SIZE)
    page.get_by_role("button", name="layer 3, head 1:").click()
    expect(page.get_by_role("heading", name="Layer 3, head 1")).to_be_visible()
    page.get_by_role("button", name="Show images").click()
    expect(page.locator("#head img").first).to_be_visible(timeout=180_000)
    assert keep(page, "explore-map").size == SIZE
    open_tab(page, "Search")
    page.get_by_label("Concepts").fill("road")
    page.get_by_role("button", name="Search", exact=True).click()
    expect(page.get_by_role("heading", name="road")).to_be_visible()
    assert keep(page, "explore-search").size == SIZE


def test_an_edit_that_turns_a_car_into_a_boat(window: Window, drawn: str, boat: Path) -> None:
    page = window(drawn, (900, 1240))
    open_tab(page, "Edit")
    page.get_by_label("Add a concept").fill("road")
    page.get_by_role("button", name="Add", exact=True).click()
    slider = page.get_by_role("slider", name="Gain of road")
    page.get_by_label("Labels").fill("boat, car")
    page.locator("#upload input[type=file]").set_input_files(boat)
    picture = page.locator("#picture")
    expect(picture).to_contain_text("car becomes boat", timeout=60_000)
    frames, said = [], []
    for gain in ("1", "0.75", "0.5", "0.25", "0"):
        before = picture.inner_text()
        slider.fill(gain)
        expect(picture).not_to_have_text(before, timeout=60_000, use_inner_text=True)
        expect(page.locator("#edit table")).to_contain_text(f"{float(gain):.2f}", timeout=60_000)
        said.append(picture.locator("p").first.inner_text())
        frames.append(frame(page))
    assert said[0].startswith("car is the most probable label")
    assert said[-1] == "car becomes boat."
    small = [each.resize((600, 827), Image.Resampling.LANCZOS).quantize(64) for each in frames]
    (first, *others) = small
    first.save(
        TOUR / "explore-edit.gif", save_all=True, append_images=others, duration=[1200, 700, 700, 700, 2500], loop=0
    )
    frames[-1].quantize(128).save(TOUR / "explore-edit.png", optimize=True)
