"""Check that every link of a built site leads to a file of the site, and to an anchor that is there.

Links to other sites are not followed: Sphinx does that (`make docs-external`). Prints what is broken, and ends with
status 1 if anything is.

Example:
    python scripts/check_links.py build/site
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit


class Page(HTMLParser):
    """What a page links to, and where links may lead in it.

    Attributes:
        links: values of `href` and `src`, as they are written.
        anchors: values of `id`, and of `name` of `a`.
    """

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.anchors: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Take in what an element links to, and its anchor."""
        for name, value in attrs:
            if name in ("href", "src") and value:
                self.links.append(value)
            elif value and (name == "id" or (name, tag) == ("name", "a")):
                self.anchors.add(value)


def main() -> None:
    """Run the script."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("site", type=Path, help="folder of the built pages")
    site = parser.parse_args().site
    pages = read_pages(site)
    if not pages:
        sys.exit(f"{site} holds no pages. Build them first.")
    broken = list(broken_links(site, pages))
    print(*broken, sep="\n" if broken else "")
    print(f"{sum(len(page.links) for page in pages.values())} links of {len(pages)} pages, {len(broken)} broken")
    sys.exit(1 if broken else 0)


def read_pages(site: Path) -> dict[Path, Page]:
    """Return the pages of a folder and its folders, by their resolved paths."""
    return {path.resolve(): Page(path.read_text(encoding="utf-8")) for path in sorted(site.rglob("*.html"))}


def broken_links(site: Path, pages: dict[Path, Page]) -> Iterator[str]:
    """Iterate over the broken links, as `page: link (what is missing)`."""
    root = site.resolve()
    for path, page in pages.items():
        for link in dict.fromkeys(page.links):
            missing = find_missing(link, path, pages, root)
            if missing:
                yield f"{path.relative_to(root)}: {link} ({missing})"


def find_missing(link: str, path: Path, pages: dict[Path, Page], root: Path) -> str | None:
    """Return what a link lacks, that stands on the page at `path`; None if nothing, or if it leads to another site."""
    parts = urlsplit(link)
    if parts.scheme or parts.netloc:
        return None
    target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
    if target.is_dir():
        target /= "index.html"
    if not target.is_relative_to(root) or not target.is_file():
        return "no such file"
    anchor = unquote(parts.fragment)
    if anchor and target in pages and anchor not in pages[target].anchors:
        return "no such anchor"
    return None


if __name__ == "__main__":
    main()
