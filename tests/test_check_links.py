"""Broken links and anchors of a built site are found, and whole ones are not taken for broken."""

import importlib
import sys
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parent.parent / "scripts"


@pytest.fixture
def check_links(monkeypatch):
    monkeypatch.syspath_prepend(SCRIPTS)
    return importlib.import_module("check_links")


@pytest.fixture
def site(tmp_path):
    """Write a page in a folder beside the first, with an anchor of each kind."""
    folder = tmp_path / "site"
    (folder / "api").mkdir(parents=True)
    (folder / "style.css").touch()
    (folder / "api" / "gate.html").write_text('<h1 id="a name">Gate</h1><a name="old"></a>', encoding="utf-8")
    (tmp_path / "outside.html").touch()
    return folder


def broken(check_links, site, body):
    (site / "index.html").write_text(body, encoding="utf-8")
    return list(check_links.broken_links(site, check_links.read_pages(site)))


@pytest.mark.parametrize(
    "link",
    [
        "api/gate.html",
        "api/gate.html#a%20name",
        "./api/../api/gate.html?x=1#old",
        "#here",
        "#",
        ".",
        "style.css#anything",
        "https://example.invalid/none.html",
        "//example.invalid/none.html",
        "mailto:nobody@example.invalid",
        "data:image/png;base64,AAAA",
    ],
)
def test_whole_links_pass(check_links, site, link):
    assert broken(check_links, site, f'<p id="here"><a href="{link}">x</a></p>') == []


@pytest.mark.parametrize(
    ("element", "found"),
    [
        ('<a href="api/gain.html">', "index.html: api/gain.html (no such file)"),
        ('<a href="api/gain.html#r">', "index.html: api/gain.html#r (no such file)"),
        ('<a href="api/gate.html#r">', "index.html: api/gate.html#r (no such anchor)"),
        ('<a href="#r">', "index.html: #r (no such anchor)"),
        ('<img src="plot.png">', "index.html: plot.png (no such file)"),
        ('<link href="none.css"/>', "index.html: none.css (no such file)"),
        ('<a href="api">', "index.html: api (no such file)"),  # a folder without index.html
        ('<a href="../outside.html">', "index.html: ../outside.html (no such file)"),  # would not be published
    ],
)
def test_broken_links_are_found(check_links, site, element, found):
    assert broken(check_links, site, element) == [found]


def test_links_are_relative_to_their_page(check_links, site):
    (site / "api" / "index.html").write_text('<a href="gate.html"></a><a href="style.css"></a>', encoding="utf-8")
    assert broken(check_links, site, "") == ["api/index.html: style.css (no such file)"]


@pytest.mark.parametrize(("body", "status"), [('<a href="api/gate.html">', 0), ('<a href="none.html">', 1)])
def test_the_status_says_whether_links_are_broken(check_links, site, monkeypatch, capsys, body, status):
    (site / "index.html").write_text(body, encoding="utf-8")
    monkeypatch.setattr(sys, "argv", ["check_links.py", str(site)])
    with pytest.raises(SystemExit) as ended:
        check_links.main()
    assert ended.value.code == status
    assert f"1 links of 2 pages, {status} broken" in capsys.readouterr().out


def test_a_folder_without_pages_is_refused(check_links, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["check_links.py", str(tmp_path)])
    with pytest.raises(SystemExit, match="holds no pages"):
        check_links.main()
