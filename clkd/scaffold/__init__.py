"""A new plugin as a whole distribution: templates in which a part is called `mine`, and what puts another name in.

`shared/` holds what every distribution has, and a folder per kind the part itself, its front door, test and scenario.
"""

from __future__ import annotations

import keyword
import re
from pathlib import Path

from clkd.errors import UserError, writing
from clkd.plugins import isolated

HOME = Path(__file__).parent
KINDS = {
    "loss": "losses",
    "memory": "memories",
    "transfer": "transfers",
    "teacher": "teachers",
    "model": "models",
    "dataset": "datasets",
    "stream": "streams",
    "metric": "metrics",
    "tracker": "trackers",
}
"""What can be made, and what `clkd list` calls it."""
LONGEST = 30


def new(name: str, kind: str, out: Path) -> list[Path]:
    """Write the distribution `clkd-NAME` with one part of a kind into the folder `out/clkd-NAME`.

    Returns its files.

    Raises:
        UserError: the name cannot be one, one of clkd's own parts has it, or the folder is there already.
    """
    names = _Names(name, kind)
    if names.part in isolated().registry.names(KINDS[kind]):
        raise UserError(f"clkd has a {kind} '{names.part}' itself: choose another name, such as my-{name}")
    root = out / names.dist
    if root.exists():
        raise UserError(f"{root} is there already: choose another name or --out")
    with writing(root):
        return [_write(root / place, names.put_in(text)) for place, text in _templates(names).items()]


class _Names:
    """One name in the four ways it is written.

    >>> names = _Names("clkd-my-kd", "loss")
    >>> names.dist, names.module, names.part, names.made
    ('clkd-my-kd', 'clkd_my_kd', 'my_kd', 'MyKd')
    """

    def __init__(self, name: str, kind: str) -> None:
        plain = name.removeprefix("clkd-")
        if not re.fullmatch(r"[a-z][a-z0-9]*([-_][a-z0-9]+)*", plain) or len(plain) > LONGEST:
            raise UserError(
                f"'{name}' cannot be a plugin's name: give lower-case words and digits joined by '-', such as my-kd, "
                f"at most {LONGEST} signs"
            )
        self.kind = kind
        self.part = plain.replace("-", "_")
        self.dist, self.module = f"clkd-{plain.replace('_', '-')}", f"clkd_{self.part}"
        self.made = "".join(word.capitalize() for word in self.part.split("_"))
        words = set(re.findall(r"\w+", "".join(path.read_text() for path in (HOME / kind).iterdir())))
        if keyword.iskeyword(self.part) or {self.part, self.made} & words:
            raise UserError(f"'{name}' is a word that the plugin's own code uses: choose another, such as my-{plain}")

    def put_in(self, text: str) -> str:
        """The text of a template, about this part."""
        for word, said in (("KINDS", KINDS[self.kind]), ("KIND", self.kind), ("clkd-mine", self.dist)):
            text = text.replace(word, said)
        text = text.replace("clkd_mine", self.module).replace("test_mine", f"test_{self.part}")
        return re.sub(r"\bmine\b", self.part, re.sub(r"\bMine(?=\b|Options)", self.made, text))


def _templates(names: _Names) -> dict[str, str]:
    """The files of a distribution: where each lies, and its template."""
    shared, own = HOME / "shared", HOME / names.kind
    places = {
        "pyproject.toml": shared / "pyproject.toml.tmpl",
        "README.md": shared / "README.md.tmpl",
        ".gitignore": shared / "gitignore.tmpl",
        ".github/workflows/test.yml": shared / "ci.yml.tmpl",
        "scenario.yaml": own / "scenario.yaml.tmpl",
        f"{names.module}/__init__.py": own / "init.py.tmpl",
        f"{names.module}/{names.part}.py": own / "part.py.tmpl",
        f"tests/test_{names.part}.py": own / "test.py.tmpl",
    }
    return {place: path.read_text(encoding="utf-8") for place, path in places.items()} | {
        f"{names.module}/py.typed": ""
    }


def _write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path
