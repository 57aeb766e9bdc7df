"""YAML as a document: plain data, and the line and column of every piece of it.

Scalars are read by the rules of YAML 1.2 (`1e-3` is a number; `no`, `on` and `12:30` are text), and a key that is given
twice is an error. PyYAML alone reads all of these the other way, in silence.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from clkd.errors import UserError
from clkd.options import Place

MOST_BYTES = 250_000
MOST_PIECES = 20_000
"""Aliases of aliases can stand for billions of pieces; no scenario comes near this many."""
LETTERS = 50
"""So many of them in a text count as a piece more."""
MOST_DEPTH = 50

Mark = tuple[int, int]
"""Line and column, from 1."""

_RULES = (
    ("null", r"^(?:~|null|Null|NULL|)$", ["~", "n", "N", ""]),
    ("bool", r"^(?:true|True|TRUE|false|False|FALSE)$", list("tTfF")),
    ("int", r"^(?:[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+)$", list("-+0123456789")),
    (
        "float",
        r"^(?:[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$",
        list("-+.0123456789"),
    ),
)
_PREFIX = "tag:yaml.org,2002:"


class Reader(yaml.SafeLoader):
    """PyYAML's reader with YAML 1.2's rules for what a plain word means."""

    yaml_implicit_resolvers = {}  # noqa: RUF012  # PyYAML's own class attribute; filled below


class Writer(yaml.SafeDumper):
    """Writes what `Reader` reads back as the same data."""

    yaml_implicit_resolvers = {}  # noqa: RUF012  # as above

    def ignore_aliases(self, data: Any) -> bool:
        return True


for _tag, _pattern, _first in _RULES:
    for _class in (Reader, Writer):
        _class.add_implicit_resolver(_PREFIX + _tag, re.compile(_pattern), _first)


class DocumentError(UserError):
    """Text that cannot be read as a document, with its place."""

    def __init__(self, reason: str, mark: Mark | None = None) -> None:
        super().__init__(reason)
        self.reason, self.mark = reason, mark


@dataclass(slots=True)
class Document:
    """What a YAML text says.

    Attributes:
        data: mappings, lists and scalars.
        marks: the line and column where each piece starts (for an entry of a mapping: its key).
        twice: keys that are given a second time, with the line of the first.
    """

    data: Any
    marks: dict[Place, Mark] = field(default_factory=dict)
    twice: list[tuple[Place, Mark, int]] = field(default_factory=list)


def read_text(path: Path) -> str:
    """The text of a scenario file, or a `UserError` that says what is in the way."""
    try:
        with path.open("rb") as file:
            raw = file.read(MOST_BYTES + 1)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except IsADirectoryError:
        raise UserError(f"{path}: is a directory; name the scenario file in it") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from error
    if len(raw) > MOST_BYTES:
        raise UserError(f"{path}: is larger than {MOST_BYTES:,} bytes, so it is hardly a scenario")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: is not UTF-8 text (byte {raw[error.start]:#04x} at offset {error.start})") from None


def parse(text: str) -> Document:
    """Read a YAML text. Raises `DocumentError`.

    >>> parse("lr: 1e-3\\nwhen: 12:30\\nsure: no").data
    {'lr': 0.001, 'when': '12:30', 'sure': 'no'}
    """
    document = Document(None)
    try:
        node = yaml.compose(text, Loader=Reader)
        document.data = None if node is None else _Builder(document).build(node, (), 0)
    except yaml.reader.ReaderError as error:
        raise DocumentError(
            f"not valid YAML: the character {error.character:#06x}", _at(text, error.position)
        ) from error
    except yaml.MarkedYAMLError as error:
        raise DocumentError(f"not valid YAML: {_told(error)}", _mark(error.problem_mark)) from error
    except yaml.YAMLError as error:
        raise DocumentError(f"not valid YAML: {' '.join(str(error).split())}") from error
    except RecursionError:
        raise DocumentError("nested too deeply", (1, 1)) from None
    return document


def _told(error: yaml.MarkedYAMLError) -> str:
    """What PyYAML says; what it was reading where that began on an earlier line; what to do about a tab."""
    problem = str(error.problem)
    if "'\\t'" in problem:
        return f"{problem}: indent by spaces"
    began, found = _mark(error.context_mark), _mark(error.problem_mark)
    earlier = error.context and began and found and began[0] < found[0]
    return f"{problem} ({error.context} that starts on line {began[0]})" if earlier and began else problem


def to_yaml(data: Any, flow: bool = False) -> str:
    """Plain data as YAML text that `parse` reads back as the same data."""
    text: str = yaml.dump(
        data, Dumper=Writer, sort_keys=False, allow_unicode=True, default_flow_style=flow, width=2**20
    )
    return text.removesuffix("...\n")


class _Builder:
    """Makes plain data of PyYAML's nodes and notes where each piece stood."""

    def __init__(self, document: Document) -> None:
        self.document = document
        self.pieces = 0

    def build(self, node: yaml.Node, place: Place, depth: int) -> Any:
        self.pieces += 1
        if self.pieces > MOST_PIECES:
            raise DocumentError(f"stands for more than {MOST_PIECES:,} values, aliases counted", _mark(node.start_mark))
        if depth > MOST_DEPTH:
            raise DocumentError(f"nested more than {MOST_DEPTH} levels deep", _mark(node.start_mark))
        self.document.marks.setdefault(place, _mark(node.start_mark) or (1, 1))
        if isinstance(node, yaml.MappingNode):
            _refuse_tag(node, "map")
            return self._mapping(node, place, depth)
        if isinstance(node, yaml.SequenceNode):
            _refuse_tag(node, "seq")
            return [self.build(item, (*place, i), depth + 1) for i, item in enumerate(node.value)]
        self.pieces += len(node.value) // LETTERS
        return _scalar(node)

    def _mapping(self, node: yaml.MappingNode, place: Place, depth: int) -> dict[str, Any]:
        data: dict[str, Any] = {}
        for key_node, value_node in node.value:
            mark = _mark(key_node.start_mark) or (1, 1)
            if not isinstance(key_node, yaml.ScalarNode):
                raise DocumentError("a key must be a single word", mark)
            key = _text(key_node)
            inner = (*place, key)
            if key in data:
                self.document.twice.append((inner, mark, self.document.marks[inner][0]))
                continue
            self.document.marks[inner] = mark
            data[key] = self.build(value_node, inner, depth + 1)
        return data


def _scalar(node: yaml.Node) -> Any:
    """The value of a scalar by its tag."""
    text, tag = _text(node), node.tag.removeprefix(_PREFIX)
    if tag == "str":
        return text
    if tag == "null":
        return None
    if tag == "bool":
        return text.lower() == "true"
    try:
        if tag == "int":
            return int(text, {"0o": 8, "0x": 16}.get(text[:2], 10))
        if tag == "float":
            return float(re.sub(r"\.(inf|nan)$", r"\1", text.lower()))
    except ValueError:
        raise DocumentError(f"{text[:40]!r} is not a number", _mark(node.start_mark)) from None
    raise _strange_tag(node)


def _refuse_tag(node: yaml.Node, plain: str) -> None:
    """Mappings and lists may not be something else as well."""
    if node.tag != _PREFIX + plain:
        raise _strange_tag(node)


def _strange_tag(node: yaml.Node) -> DocumentError:
    return DocumentError(f"the tag {node.tag} is not supported: write plain YAML", _mark(node.start_mark))


def _text(node: yaml.Node) -> str:
    """What a scalar says, letter by letter. Escapes can spell what is no text: no file could hold it."""
    text = str(node.value)
    wrong = re.search("[\0\ud800-\udfff]", text)
    if wrong:
        raise DocumentError(f"the character {ord(wrong[0]):#06x} is no text", _mark(node.start_mark))
    return text


def _at(text: str, position: int) -> Mark:
    """The line and column of a position in a text."""
    before = text[:position]
    return before.count("\n") + 1, position - before.rfind("\n")


def _mark(mark: Any) -> Mark | None:
    return None if mark is None else (mark.line + 1, mark.column + 1)
