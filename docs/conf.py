"""How `make docs` builds the site. Pages are plain Markdown, the map is docs/index.md, the reference is generated."""

from __future__ import annotations

import re
import sys
from pathlib import Path

from sphinx.application import Sphinx
from sphinx.ext.napoleon import Config, GoogleDocstring

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

from generate import pages  # noqa: E402  # from beside this file

from clkd import __version__  # noqa: E402

project, release, copyright = "clkd", __version__, "the authors of clkd, Apache-2.0"  # noqa: A001  # Sphinx's name
extensions = ["myst_parser", "sphinx.ext.autodoc"]
root_doc = "docs/index"
include_patterns = ["docs/**", "README.md", "CONTRIBUTING.md", "CHANGELOG.md", "plugins/*/README.md"]
exclude_patterns = [".venv", "build", "runs", "tests"]
html_theme, html_title, html_show_sphinx = "furo", "clkd", False
myst_heading_anchors = 4
myst_enable_extensions: list[str] = []
autodoc_typehints_format = "short"
default_role = "code"  # `x` in a docstring is code, as in Markdown


def write_reference(app: Sphinx) -> None:
    """The generated pages; a page that is as it was is left alone, so that only what changed is built again."""
    home, wanted = HERE / "reference", pages()
    for name, text in wanted.items():
        path = home / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")
    for path in home.rglob("*.md"):
        if path.relative_to(home).as_posix() not in wanted:
            path.unlink()


def place(link: str) -> str:
    """Where a page lies that docs/index.md links to, as Sphinx writes it."""
    return f"/{(HERE / link).resolve().relative_to(HERE.parent)}"


def grow_navigation(app: Sphinx, name: str, source: list[str]) -> None:
    """Each section of docs/index.md becomes a part of the navigation: the pages that it links to, in its order."""
    if name == root_doc:
        for title, body in re.findall(r"^## (.+)\n((?:(?!## ).*\n?)*)", source[0], re.MULTILINE):
            links = [
                f"{said} <{place(link)}>" for said, link in re.findall(r"^- \[([^]]+)\]\(([^)]+)\)", body, re.MULTILINE)
            ]
            if title == "Reference":
                links += [f"/docs/reference/{page}" for page in pages()]
                links += [
                    f"/{page.relative_to(HERE.parent)}" for page in sorted(HERE.parent.glob("plugins/*/README.md"))
                ]
            source[0] += "\n".join(["\n```{toctree}", ":hidden:", f":caption: {title}", "", *links, "```\n"])


def read_sections(app: Sphinx, what: str, name: str, thing: object, options: object, lines: list[str]) -> None:
    """`Args:` and its like. Not in what is said of an attribute, where a colon is no more than a colon."""
    if what not in ("attribute", "data", "property"):
        lines[:] = GoogleDocstring(lines, Config(), app, what, name, thing, options).lines()


def open_the_door(app: Sphinx, failure: Exception | None) -> None:
    """Pages lie as in the repository; who opens the folder wants the map."""
    (app.outdir / "index.html").write_text('<meta http-equiv="refresh" content="0; url=docs/index.html">\n')


def setup(app: Sphinx) -> None:
    """Sphinx calls this."""
    app.connect("builder-inited", write_reference)
    app.connect("source-read", grow_navigation)
    app.connect("autodoc-process-docstring", read_sections)
    app.connect("build-finished", open_the_door)
