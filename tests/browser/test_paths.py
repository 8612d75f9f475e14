"""The main paths of a reader: look at heads, search, edit, leave with the edit, compare."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect
from transformers import CLIPVisionModel

from sith_hf.edits import EditSpec
from sith_hf.explore import Explorer
from sith_hf.world import embedded_checkpoint
from tests.browser.conftest import NARROW, Window, faults_of, open_tab, served, shot


def add(page: Page, concept: str) -> None:
    """Put a concept into the basket."""
    open_tab(page, "Edit")
    page.get_by_label("Add a concept").fill(concept)
    page.get_by_role("button", name="Add", exact=True).click()
    expect(page.get_by_role("slider", name=f"Gain of {concept}")).to_be_visible()


def test_a_head_opens_by_mouse_and_keyboard(window: Window, address: str) -> None:
    page = window(address)
    page.get_by_role("button", name="layer 3, head 1:").click()
    expect(page.get_by_role("heading", name="Layer 3, head 1")).to_be_visible()
    page.get_by_role("button", name="layer 3, head 1:").press("ArrowUp")
    page.keyboard.press("ArrowRight")
    expect(page.get_by_role("button", name="layer 2, head 2:")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="Layer 2, head 2")).to_be_visible()
    expect(page.get_by_role("button", name="layer 2, head 2:")).to_have_attribute("aria-pressed", "true")
    expect(page.get_by_role("button", name="layer 3, head 1:")).to_have_attribute("aria-pressed", "false")


def test_the_images_of_a_head_are_shown(window: Window, address: str) -> None:
    page = window(address)
    page.get_by_role("button", name="Show images").click()
    expect(page.locator("#head img").first).to_be_visible(timeout=120_000)
    assert all(page.locator("#head img").evaluate_all("all => all.map(each => each.alt !== '' && each.complete)"))
    shot(page, "map-images")
    assert faults_of(page) == []


def test_a_search_leads_to_the_head_and_to_the_map(window: Window, address: str) -> None:
    page = window(address)
    open_tab(page, "Search")
    page.get_by_label("Concepts").fill("sand, road")
    page.get_by_role("button", name="Search", exact=True).click()
    expect(page.get_by_role("heading", name="sand")).to_be_visible()
    expect(page.get_by_role("heading", name="road")).to_be_visible()
    shot(page, "search-results")
    assert faults_of(page) == []
    first = page.get_by_role("button", name="Open layer").first
    place = str(first.get_attribute("aria-label")).removeprefix("Open ").rsplit(", vector", 1)[0]
    first.click()
    expect(page.get_by_role("heading", name=place.capitalize())).to_be_visible()
    open_tab(page, "Search")
    page.get_by_role("button", name="Show on the map").first.click()
    expect(page.get_by_role("radio", name="a concept")).to_be_checked()


def test_an_edit_from_the_first_word_to_a_checkpoint_that_transformers_loads(
    window: Window, address: str, boat: Path, tmp_path: Path
) -> None:
    page = window(address)
    for concept in ("sea", "road"):
        add(page, concept)
    facts = page.locator("#edit .sith-facts")
    expect(facts).to_contain_text("Vectors")
    before = facts.inner_text()
    slider = page.get_by_role("slider", name="Gain of road")
    slider.focus()
    page.keyboard.press("End")
    expect(facts).not_to_have_text(before)
    page.keyboard.press("Home")
    # Sliders keep the focus while the estimates follow.
    expect(slider).to_be_focused()
    slider.fill("0")
    page.get_by_label("Labels").fill("boat, car")
    page.locator("#upload input[type=file]").set_input_files(boat)
    picture = page.locator("#picture")
    expect(picture).to_contain_text("boat", timeout=60_000)
    expect(page.locator("#where img")).to_be_visible(timeout=60_000)
    expect(page.locator("#grid img").first).to_be_visible(timeout=60_000)
    shot(page, "edit-picture")
    assert faults_of(page) == []

    open_tab(page, "Leave")
    page.get_by_role("button", name="Prepare the files").click()
    link = page.get_by_role("link", name="edit_spec.safetensors").or_(page.locator("a[download*=edit_spec]")).first
    with page.expect_download(timeout=60_000) as download:
        link.click()
    download.value.save_as(tmp_path / "spec" / "edit_spec.safetensors")
    spec = EditSpec.from_pretrained(tmp_path / "spec")
    folder = tmp_path / "edited"
    page.get_by_label("Folder on this machine").fill(str(folder))
    confirm(page)
    page.get_by_role("button", name="Save", exact=True).click()
    expect(page.locator("#saved")).to_contain_text("Saved in", timeout=180_000)
    page.get_by_label("Repository").fill("me/no-background")
    page.get_by_role("button", name="Dry run").click()
    expect(page.locator("#pushed")).to_contain_text("model.safetensors", timeout=180_000)
    expect(page.locator("#card")).to_contain_text("road")
    shot(page, "leave-dry-run")
    assert faults_of(page) == []
    base = CLIPVisionModel.from_pretrained(embedded_checkpoint()).state_dict()
    edited = CLIPVisionModel.from_pretrained(folder).state_dict()
    changed = {name for name in base if not base[name].equal(edited[name])}
    assert changed == {name.removeprefix("vision_model.") for name in spec.touched_keys if "position_ids" not in name}


def confirm(page: Page) -> None:
    """Accept a large edit where the page asks."""
    box = page.get_by_label("Accept a large edit")
    if box.is_visible():
        box.check()


def test_moves_and_clicks_in_quick_succession_all_count(window: Window, address: str) -> None:
    page = window(address)
    buttons = page.locator('#head button[data-action="add"]')
    buttons.evaluate_all("all => all.forEach((each) => each.click())")
    expect(page.get_by_role("tab", name=f"Edit ({buttons.count()})")).to_be_visible(timeout=60_000)
    open_tab(page, "Edit")
    sliders = page.locator("#basket input")
    expect(sliders).to_have_count(buttons.count(), timeout=60_000)
    sliders.evaluate_all(
        """all => all.forEach((each) => {
          each.value = "0.5";
          each.dispatchEvent(new Event("input", { bubbles: true }));
        })"""
    )
    gains = page.locator("#edit tbody td:nth-child(2)")
    expect(gains).to_have_text(["0.50"] * buttons.count(), timeout=60_000)


def test_two_windows_have_baskets_of_their_own(window: Window, address: str) -> None:
    one, other = window(address), window(address)
    add(one, "sand")
    open_tab(other, "Edit")
    expect(other.locator("#basket")).to_contain_text("The basket is empty")
    add(other, "snow")
    expect(one.get_by_role("slider", name="Gain of snow")).to_have_count(0)
    one.get_by_role("button", name="Remove sand").click()
    expect(one.locator("#basket")).to_contain_text("The basket is empty")
    expect(other.get_by_role("slider", name="Gain of snow")).to_be_visible()


def test_two_decompositions_side_by_side(window: Window, explained: Path, hostile: Path) -> None:
    with served(Explorer.open(explained, other=str(hostile))) as page:
        shown = window(page.url)
        open_tab(shown, "Compare")
        shown.locator("#compare [role=gridcell] button").first.click()
        expect(shown.locator("#compare-head h2, #compare-head h3").first).to_be_visible()
        shot(shown, "compare-two")
        assert faults_of(shown) == []


class TestFaults:
    def test_hostile_texts_are_texts(self, window: Window, hostile: Path) -> None:
        with served(Explorer.open(hostile, str(embedded_checkpoint()))) as served_page:
            page = window(served_page.url, NARROW)
            for layer in range(4):
                for head in range(8):
                    page.get_by_role("button", name=f"layer {layer}, head {head}:").click()
                    expect(page.get_by_role("heading", name=f"Layer {layer}, head {head}")).to_be_visible()
            open_tab(page, "Search")
            page.get_by_label("Concepts").fill("<img src=x onerror=\"document.title='broken'\">")
            page.get_by_role("button", name="Search", exact=True).click()
            expect(page.locator("#search")).to_contain_text("<img src=x")
            shot(page, "hostile-search")
            assert page.title() == "sith-hf explore"
            assert page.locator("#search img").count() == 0

    def test_ten_thousand_concepts_get_a_message(self, window: Window, address: str) -> None:
        page = window(address)
        open_tab(page, "Search")
        page.get_by_label("Concepts").fill(", ".join(f"concept {n}" for n in range(10_000)))
        page.get_by_role("button", name="Search", exact=True).click()
        expect(page.locator("#search").get_by_role("alert")).to_contain_text("at most 100 concepts")
        page.get_by_label("Concepts").fill("sand")
        page.get_by_role("button", name="Search", exact=True).click()
        expect(page.get_by_role("heading", name="sand")).to_be_visible()

    @pytest.mark.parametrize(
        "content", [b"", b"no picture", b"\x89PNG\r\n\x1a\n" + b"\0" * 64], ids=["empty", "text", "cut"]
    )
    def test_an_upload_that_is_no_picture(self, window: Window, address: str, tmp_path: Path, content: bytes) -> None:
        page = window(address)
        open_tab(page, "Edit")
        (path := tmp_path / "picture.png").write_bytes(content)
        page.locator("#upload input[type=file]").set_input_files(path)
        expect(page.locator("#picture").get_by_role("alert")).to_be_visible()

    def test_a_model_that_was_not_given(self, window: Window, explained: Path) -> None:
        with served(Explorer.open(explained)) as served_page:
            page = window(served_page.url)
            open_tab(page, "Edit")
            expect(page.get_by_text("Pictures need the model")).to_be_visible()
            page.get_by_label("Add a concept").fill("sand")
            page.get_by_role("button", name="Add", exact=True).click()
            expect(page.locator("#edit .sith-facts")).to_contain_text("Vectors")

    def test_a_folder_that_changes_and_a_server_that_stops(
        self, window: Window, explained: Path, tmp_path: Path
    ) -> None:
        folder = shutil.copytree(explained, tmp_path / "decomposition")
        served_page = served(Explorer.open(folder))
        page = window(served_page.url, quiet=False)
        shutil.rmtree(folder)
        notice = page.locator(".sith-notice")
        expect(notice).to_contain_text("decomposition", timeout=30_000)
        page.get_by_role("button", name="layer 2, head 2:").click()
        expect(page.get_by_role("heading", name="Layer 2, head 2")).to_be_visible()
        served_page.close()
        expect(notice).to_contain_text("does not answer", timeout=30_000)


def test_a_click_is_answered_in_time_without_a_model(window: Window, explained: Path) -> None:
    """The figure is kept with the screenshots; benchmarks/explore.py measures it."""
    with served(Explorer.open(explained)) as served_page:
        page = window(served_page.url)
        took = page.evaluate(_CLICK)
        path = shot(page, "click").with_suffix(".json")
        path.write_text(json.dumps(took))
        assert len(took) == 5


_CLICK = """async () => {
  const took = [];
  for (const head of [1, 2, 3, 4, 5]) {
    const start = performance.now();
    document.querySelector(`#map button[data-layer="3"][data-head="${head}"]`).click();
    while (!document.querySelector("#head h2")?.textContent.includes(`head ${head}`)) {
      await new Promise((done) => requestAnimationFrame(done));
    }
    took.push(performance.now() - start);
  }
  return took;
}"""
