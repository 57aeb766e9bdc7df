"""Files that are no scenario: one line that names the file and, where there is one, the place; exit code 2."""

from pathlib import Path

import pytest

from clkd.scenario.document import MOST_BYTES

GOOD = b"""\
name: tiny
stream: {dataset: digits, split: {by: class, experiences: 5}}
student: {model: mlp, head: linear}
train: {optimizer: sgd}
losses: [cross_entropy]
"""


def bomb() -> bytes:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 12)]
    return "\n".join(lines).encode()


def quadratic() -> bytes:
    """No alias of an alias, and yet a gigabyte: a long text, named very often."""
    return b"a: &a " + b"x" * 100_000 + b"\nb: [" + b", ".join([b"*a"] * 30_000) + b"]"


CASES = {
    "utf-16": (GOOD.decode().encode("utf-16"), "x.yaml: is not UTF-8 text (byte 0xff at offset 0)"),
    "latin-1": (GOOD + "# größe".encode("latin-1"), "x.yaml: is not UTF-8 text (byte 0xf6"),
    "a NUL byte": (GOOD + b"a: \x00", "x.yaml:6:4: not valid YAML: the character 0x0000"),
    "an escaped NUL": (GOOD + b'output: "a\\0b"', "x.yaml:6:9: the character 0x0000 is no text"),
    "half a character": (GOOD + b'output: "\\ud800"', "x.yaml:6:9: the character 0xd800 is no text"),
    "10 MB": (GOOD + b"#" * 10_000_000, f"x.yaml: is larger than {MOST_BYTES:,} bytes"),
    "a bomb": (bomb(), "x.yaml:1:5: stands for more than 20,000 values"),
    "another bomb": (quadratic(), "x.yaml:1:4: stands for more than 20,000 values"),
    "a loop": (b"a: &a [*a]", "nested more than 50 levels deep"),
    "deep": (b"[" * 60 + b"]" * 60, "x.yaml:1:52: nested more than 50 levels deep"),
    "bottomless": (b"[" * 100_000, "x.yaml:1:1: nested too deeply"),
    "deep blocks": (b"".join(b" " * i + b"a:\n" for i in range(600)), "nested "),
    "a key twice": (GOOD + b"name: other\n", "x.yaml:6:1: name: given twice, first on line 1"),
    "a tab": (GOOD + b"a:\n\tb: 1\n", "x.yaml:7:1: not valid YAML: found character '\\t'"),
    "two documents": (GOOD + b"---\n" + GOOD, "x.yaml:6:1: not valid YAML: but found another document"),
    "a list": (
        b"- " + GOOD.replace(b"\n", b"\n  "),
        "x.yaml:1:1: a scenario is a mapping of keys to values; got a list",
    ),
    "a word": (b"scenario", "x.yaml:1:1: a scenario is a mapping of keys to values; got a single value"),
    "nothing": (b"", "x.yaml:1:1: is empty"),
    "a comment": (b"# later\n", "x.yaml:1:1: is empty"),
    "an object": (
        GOOD + b"output: !!python/object/apply:os.system [ls]",
        "x.yaml:6:9: the tag tag:yaml.org",
    ),
    "an endless number": (GOOD + b"seed: " + b"9" * 5000, "x.yaml:6:7: '9999999999999999999999999999999999999999' is"),
    "a merge key": (GOOD + b"<<: *a", "x.yaml:6:5: not valid YAML: found undefined alias 'a'"),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("command", ["validate", "show", "run"])
def test_a_file_that_is_no_scenario(case, command, clkd, tmp_path, monkeypatch):
    content, said = CASES[case]
    monkeypatch.chdir(tmp_path)
    Path("x.yaml").write_bytes(content)
    done = clkd(command, "x.yaml")
    assert (done.code, done.out) == (2, "")
    assert said in done.line
    assert len(done.line) < 200
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x.yaml"]


def test_what_is_no_file(clkd, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("folder").mkdir()
    Path("loop").symlink_to("loop")
    for name, said in {
        "folder": "folder: is a directory; name the scenario file in it",
        "nope.yaml": "nope.yaml: no such file",
        "loop": "loop: cannot be read: Too many levels of symbolic links",
        "a" * 300: "cannot be read: File name too long",
    }.items():
        done = clkd("validate", name)
        assert done.code == 2
        assert said in done.line


def test_a_byte_order_mark_and_windows_line_ends_do_no_harm(clkd, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("x.yaml").write_bytes(b"\xef\xbb\xbf" + GOOD.replace(b"\n", b"\r\n"))
    assert clkd("validate", "x.yaml").code == 0


def test_a_thousand_mistakes_are_a_few_lines(clkd, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("x.yaml").write_bytes(GOOD + b"".join(f"key{i}: {i}\n".encode() for i in range(1000)))
    lines = clkd("validate", "x.yaml").err.splitlines()
    assert len(lines) == 51
    assert lines[0].startswith("x.yaml:6:1: key0: unknown key")
    assert lines[-1] == "clkd: and 950 mistakes more"


def test_strange_names_cannot_write_on_the_terminal(clkd, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("x.yaml").write_bytes(GOOD + b'"a\\nclkd: ok\\e[2J\\u202e": 1\n')
    assert "x.yaml:6:1: a\\nclkd: ok\\x1b[2J\\u202e: unknown key" in clkd("validate", "x.yaml").line


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("losses." + "9" * 300 + ".weight=1", "no such entry"),
        ("losses." + "9" * 5000 + ".weight=1", "--set losses.9999"),
        ("train.epochs=" + "9" * 5000, "is not a number"),
        ("train=" + "[" * 5000, "nested too deeply"),
        ('name="a\\0"', "is no text"),
        ("losses.0.weight=.nan", "give a finite number"),
    ],
)
def test_settings_are_as_harmless(setting, said, clkd, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("x.yaml").write_bytes(GOOD)
    done = clkd("validate", "x.yaml", "--set", setting)
    assert done.code == 2
    line = done.err.splitlines()[-1]
    assert line.startswith(("--set", "clkd: --set"))
    assert said in line
    assert len(line) < 1000


def test_what_torch_alone_can_refuse_is_refused_before_a_run_is_made(clkd, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("x.yaml").write_bytes(GOOD)
    done = clkd("run", "x.yaml", "--set", "train.optimizer={kind: sgd, nesterov: true}", "-q")
    assert (done.code, done.out) == (2, "")
    assert done.line == "clkd: train.optimizer: sgd: Nesterov momentum requires a momentum and zero dampening"
    assert not list(tmp_path.glob("runs/*")), "nothing was begun"
    assert not list(tmp_path.glob("mlflow.db"))
