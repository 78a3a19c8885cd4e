"""HTML as tests see it: its text, its tags, and whether they nest."""

from html.parser import HTMLParser

VOID = {"meta", "img", "br", "input"}
LEFT_OPEN = {"html", "td", "th", "tr"}  # HTML closes these itself


class Page(HTMLParser):
    """The text, the tags and the addresses of a page; an error where tags do not nest."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID | LEFT_OPEN:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert tag in LEFT_OPEN or self.open.pop() == tag

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data
