import pytest

from clkd.errors import UserError
from clkd.scenario.document import MOST_BYTES, DocumentError, parse, read_text, to_yaml


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 0.001),
        ("1E3", 1000.0),
        (".5", 0.5),
        ("-2.", -2.0),
        ("010", 10),
        ("0o10", 8),
        ("0x1F", 31),
        ("-7", -7),
        ("1_000", "1_000"),
        ("12:30:00", "12:30:00"),
        ("2024-01-31", "2024-01-31"),
        ("no", "no"),
        ("On", "On"),
        ("y", "y"),
        ("true", True),
        ("FALSE", False),
        ("~", None),
        ("", None),
        ("null", None),
        (".inf", float("inf")),
        ("-.INF", float("-inf")),
        ("'1'", "1"),
        ("e3", "e3"),
        (".", "."),
        ("1.2.3", "1.2.3"),
    ],
)
def test_plain_words_mean_what_yaml_1_2_says(text, value):
    read = parse(f"key: {text}").data["key"]
    assert read == value
    assert type(read) is type(value)


@pytest.mark.parametrize(
    "value", ["1e-3", "no", "true", "010", "", "~", "a: b", "é", "12:30", 1e-05, 3.0, 7, None, "# x"]
)
def test_what_is_written_is_read_back(value):
    data = {"key": [value, {"inner": value}], str(value): value}
    for flow in (False, True):
        read = parse(to_yaml(data, flow)).data
        assert read == data
        assert type(read["key"][0]) is type(value)


def test_every_piece_has_its_line_and_column():
    document = parse("a:\n  - x\n  - {b: 1, c: [2]}\n")
    assert document.marks == {
        (): (1, 1),
        ("a",): (1, 1),
        ("a", 0): (2, 5),
        ("a", 1): (3, 5),
        ("a", 1, "b"): (3, 6),
        ("a", 1, "c"): (3, 12),
        ("a", 1, "c", 0): (3, 16),
    }


def test_a_key_given_twice_is_found_with_both_lines():
    assert parse("a: 1\nb:\n  c: 1\n  c: 2\na: 3\n").twice == [(("b", "c"), (4, 3), 3), (("a",), (5, 1), 1)]


def test_anchors_stand_for_copies():
    document = parse("a: &x {b: 1}\nc: *x\n")
    assert document.data == {"a": {"b": 1}, "c": {"b": 1}}
    document.data["a"]["b"] = 2
    assert document.data["c"] == {"b": 1}


def _bomb() -> str:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 12)]
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("text", "reason", "line"),
    [
        ("a: [1, 2", "not valid YAML", 1),
        ("a: 1\n\tb: 2", "cannot start any token: indent by spaces", 2),
        (
            "a: {b: 1\nc: 2}\nd: 3",
            "not valid YAML: expected ',' or '}', but got ':' (while parsing a flow mapping that starts on line 1)",
            2,
        ),
        ("a: 1\n---\nb: 2", "not valid YAML", 2),
        ("a: !!python/object:os.system x", "tag tag:yaml.org,2002:python/object:os.system is not supported", 1),
        ("a: !mine x", "tag !mine is not supported", 1),
        ("{[1]: 2}", "a key must be a single word", 1),
        (_bomb(), "stands for more than", 1),
        ("a: &a [*a]", "nested", 1),
        ("[" * 60 + "]" * 60, "nested", 1),
        ("a: !!int x", "is not a number", 1),
    ],
)
def test_bad_text_is_one_line_with_its_place(text, reason, line):
    with pytest.raises(DocumentError) as caught:
        parse(text)
    assert reason in caught.value.reason
    assert "\n" not in caught.value.reason
    assert caught.value.mark is not None
    assert caught.value.mark[0] == line


def test_text_that_yaml_cannot_hold_and_bottomless_nesting_are_errors_too():
    for text in ("a: \x00", "[" * 5000):
        with pytest.raises(DocumentError):
            parse(text)


def test_files_that_cannot_be_read_are_one_line(tmp_path):
    (tmp_path / "latin.yaml").write_bytes("größe: 1".encode("latin-1"))
    (tmp_path / "big.yaml").write_bytes(b"#" * (MOST_BYTES + 1))
    (tmp_path / "bom.yaml").write_bytes(b"\xef\xbb\xbfa: 1")
    cases = {"latin.yaml": "not UTF-8", "big.yaml": "larger than", "nope.yaml": "no such file", ".": "is a directory"}
    for name, reason in cases.items():
        with pytest.raises(UserError, match=reason) as caught:
            read_text(tmp_path / name)
        assert "\n" not in str(caught.value)
    assert read_text(tmp_path / "bom.yaml") == "a: 1"
