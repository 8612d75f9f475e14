"""Reading the HTML of reprs: its tags and texts, and whatever a page must not get from them."""

from __future__ import annotations

from html.parser import HTMLParser

# The tags that sith_hf.core.html writes; what a hostile text could add is not among them.
WRITTEN = {"table", "thead", "tbody", "tr", "th", "td", "div", "span", "b", "details", "summary", "bdi", "img"}
ATTRIBUTES = {"style", "scope", "colspan", "aria-hidden", "src", "alt", "class"}
ENDLESS = {"br", "img", "hr", "input", "meta", "link"}


class Page(HTMLParser):
    """HTML as a browser reads it.

    Attributes:
        tags: in order.
        attributes: (tag, name, value) of each attribute.
        text: all texts together.
        open: the tags that are not closed, or closed in another order.
    """

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.text = ""
        self.open: list[str] = []

    @classmethod
    def of(cls, html: str) -> Page:
        """Read HTML."""
        page = cls()
        page.feed(str(html))
        page.close()
        return page

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in ENDLESS:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if self.open and self.open[-1] == tag:
            self.open.pop()
        else:
            self.open.append(f"/{tag}")

    def handle_data(self, data: str) -> None:
        self.text += data


def unsafe(page: Page) -> list[str]:
    """What HTML of a repr must not have: other tags and attributes, addresses, colours of its own, open tags."""
    found = [tag for tag in page.tags if tag not in WRITTEN]
    found += [f"{tag} {name}" for tag, name, _ in page.attributes if name not in ATTRIBUTES]
    for _, name, value in page.attributes:
        if name == "src" and not value.startswith("data:image/png;base64,"):
            found.append(value)
        if name == "style":
            rules = [rule.partition(":") for rule in value.split(";") if rule]
            found += [rule[2] for rule in rules if "url" in rule[2] or "//" in rule[2]]
            found += [
                rule[2]
                for rule in rules
                if rule[0] in ("background", "background-color", "color")
                and rule[2] not in ("none", "inherit", "currentColor")
            ]
    return found + page.open
