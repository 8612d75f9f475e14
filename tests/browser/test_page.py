"""The page as a whole: it loads, asks no other host, shows hostile texts as texts, and is accessible."""

from __future__ import annotations

import pytest

from tests.browser.conftest import NARROW, WIDE, Window, faults_of, open_tab, shot

TABS = ("Map", "Search", "Edit", "Leave", "Compare")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [WIDE, NARROW], ids=["wide", "narrow"])
def test_every_tab_is_accessible_and_fits(window: Window, address: str, size: tuple[int, int], scheme: str) -> None:
    page = window(address, size, scheme)
    for name in TABS:
        open_tab(page, name)
        shot(page, f"{name.lower()}-{size[0]}-{scheme}")
        assert faults_of(page) == []
        assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"), name


def test_the_accessibility_check_finds_faults(window: Window, address: str) -> None:
    page = window(address)
    page.evaluate("document.body.insertAdjacentHTML('beforeend', '<button></button><img src=\"data:,\">')")
    assert [fault.split(":")[0] for fault in faults_of(page)] == ["button-name", "image-alt"]
