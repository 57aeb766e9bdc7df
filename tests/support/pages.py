"""What pages show: their code blocks, and the commands in them."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted(
    [ROOT / "README.md", *DOCS.glob("*.md"), *(DOCS / "losses").glob("*.md"), *(DOCS / "howto").glob("*.md")]
)
"""All that are written by hand and show code."""
FENCE = re.compile(
    r"^(?:<!-- not run: (?P<reason>[^\n]+) -->\n)?```(?P<language>\w*)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL
)
SEPARATORS = re.compile(r"\s[>|]\s.*")


@dataclass(frozen=True)
class Block:
    """A code block. `reason` says why nobody runs it, if nobody does."""

    page: Path
    line: int
    language: str
    text: str
    reason: str | None

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"

    def commands(self) -> list[list[str]]:
        """The words of each line, without comments, prompts, variables before it and what follows `>` or `|`."""
        text = self.text.replace("\\\n", " ")
        if self.language == "console":
            text = "\n".join(line.removeprefix("$ ") for line in text.splitlines() if line.startswith("$ "))
        lines = (shlex.split(SEPARATORS.sub("", line), comments=True) for line in text.splitlines())
        return [words for words in map(_without_variables, lines) if words]


def blocks(page: Path, language: str | None = None) -> list[Block]:
    """The blocks of a page, in their order."""
    return [block for block in _blocks(page) if language in (None, block.language)]


def _blocks(page: Path) -> Iterator[Block]:
    text = page.read_text(encoding="utf-8")
    for found in FENCE.finditer(text):
        line = text.count("\n", 0, found.start("language")) + 1
        yield Block(page, line, found["language"], found["text"], found["reason"])


def _without_variables(words: list[str]) -> list[str]:
    while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
        words = words[1:]
    return words
