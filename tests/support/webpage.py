"""What reads an HTML page, strictly."""

from __future__ import annotations

from html.parser import HTMLParser

from clkd.page.markup import VOID


class Page(HTMLParser):
    """A page as a browser takes it apart: `elements` with their attributes, `text`, `tables` by caption."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.said: list[str] = []
        self.tables: dict[str, list[list[str]]] = {}
        self._open: list[str] = []
        self._caption = ""
        self.feed(text)
        self.close()
        assert not self._open, self._open

    def handle_starttag(self, name, attributes):
        self.elements.append((name, {key: value or "" for key, value in attributes}))
        if name not in VOID:
            self._open.append(name)
        if name == "caption":
            self._caption = ""
        elif name == "tr":
            self.tables.setdefault(self._caption, []).append([])
        elif name in ("td", "th"):
            self.tables[self._caption][-1].append("")

    def handle_endtag(self, name):
        assert self._open.pop() == name, f"{name} is closed, but was not opened last"

    def handle_data(self, data):
        self.said.append(data)
        if "caption" in self._open:
            self._caption += data
        elif {"td", "th"} & set(self._open):
            self.tables[self._caption][-1][-1] += data

    @property
    def text(self):
        return "".join(self.said)

    def table(self, words):
        """The one whose caption holds these words, without its head."""
        (found,) = [rows for caption, rows in self.tables.items() if words in caption]
        return found[1:]

    def all(self, name):
        return [attributes for element, attributes in self.elements if element == name]
