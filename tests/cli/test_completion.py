"""Shell completion as the shell asks for it: commands, options, kinds and parts."""

from __future__ import annotations

import pytest
from processes import clkd


def completed(words: str, instruction: str = "bash_complete") -> list[str]:
    """What the shell is offered for the last of these words."""
    count = len(words.split(" ")) - 1
    done = clkd(_CLKD_COMPLETE=instruction, COMP_WORDS=words, COMP_CWORD=str(count))
    assert not done.stderr, done.stderr
    return [line.partition(",")[2] for line in done.stdout.splitlines()]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("clkd do", ["doctor"]),
        ("clkd plug", ["plugins", "plugin"]),
        ("clkd plugin new x --kind t", ["transfer", "teacher", "tracker"]),
        ("clkd list lo", ["losses"]),
        ("clkd list losses rk", ["rkd"]),
        ("clkd run --tracking o", ["offline", "off"]),
    ],
)
def test_bash_is_offered(words: str, expected: list[str]) -> None:
    assert completed(words) == expected


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_each_shell_has_its_script(shell: str) -> None:
    done = clkd(_CLKD_COMPLETE=f"{shell}_source")
    assert "_CLKD_COMPLETE" in done.stdout
