"""What says of a run which run it is: parameters, tags, the note on its page, and the software it ran on."""

from __future__ import annotations

import csv
import io
import json
import platform
import subprocess
from collections.abc import Iterator, Mapping
from importlib.metadata import Distribution, distributions
from typing import TYPE_CHECKING, Any

from clkd import __version__
from clkd.scenario.resolve import config_sha, group_name
from clkd.tracking.points import percent
from clkd.tracking.result import HEADLINES

if TYPE_CHECKING:
    from clkd.engine.run import Run

LONGEST_VALUE = 6000
LONGEST_TAG = 8000
SAFE = ("--no-optional-locks", "-c", "core.fsmonitor=false", "-c", "core.hooksPath=/dev/null")


def flatten(value: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """Nested plain data as dotted names and texts; a list of plain values is one text.

    >>> dict(flatten({"train": {"lr": 0.1}, "losses": [{"kind": "kd"}], "groups": [1, 2], "clip": None}))
    {'train.lr': '0.1', 'losses.0.kind': 'kd', 'groups': '[1, 2]', 'clip': 'null'}
    """
    if isinstance(value, dict) and value:
        for key, item in value.items():
            yield from flatten(item, f"{path}.{key}" if path else str(key))
    elif isinstance(value, list) and any(isinstance(item, dict) for item in value):
        for i, item in enumerate(value):
            yield from flatten(item, f"{path}.{i}")
    else:
        yield path, (value if isinstance(value, str) else json.dumps(value))[:LONGEST_VALUE]


def run_tags(run: Run) -> dict[str, str]:
    """What clkd itself says of a run, as tags of the parent run."""
    tags = {
        **git_tags(),
        "clkd.run_id": run.id,
        "clkd.version": __version__,
        "clkd.seed": str(run.seed),
        "clkd.group": group_name(run.scenario),
        "clkd.config_sha": config_sha(run.scenario),
        "clkd.plugins": ",".join(run.plugins),
        "clkd.dataset": run.dataset,
        "mlflow.source.name": run.command,
        "mlflow.source.type": "LOCAL",
    }
    if run.origin:
        tags |= {"clkd.forked_from": run.origin["run"], "clkd.forked_at": str(run.origin["experience"])}
        if run.origin["mlflow"]:
            tags["clkd.forked_from_mlflow"] = run.origin["mlflow"]
    if method := getattr(run.scenario, "method", None):
        tags["clkd.method"] = method
    if run.stand_in:
        tags["clkd.stand_in"] = run.stand_in
    return {name: value[:LONGEST_TAG] for name, value in tags.items()}


def git_tags() -> dict[str, str]:
    """The commit of the repository around the current directory, and whether tracked files differ from it."""
    commit = _git("rev-parse", "HEAD")
    if not commit:
        return {}
    changed = _git("status", "--porcelain", "--untracked-files=no")
    return {"mlflow.source.git.commit": commit, "clkd.git_dirty": str(bool(changed)).lower()}


def _git(*arguments: str) -> str:
    """Git's answer, or nothing where there is no git, no repository or no commit yet.

    The repository's own settings can name programs to run; asked like this, it watches no files and writes no index.
    """
    try:
        done = subprocess.run(["git", *SAFE, *arguments], capture_output=True, text=True, timeout=5, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def environment() -> str:
    """Python, platform and every installed package."""
    packages = sorted({_requirement(dist) for dist in distributions()}, key=str.lower)
    return "\n".join([f"python {platform.python_version()}", f"platform {platform.platform()}", *packages, ""])


def _requirement(dist: Distribution) -> str:
    """Read off the head of the metadata: parsing all of it, with the package's readme, takes ten times as long."""
    text = dist.read_text("METADATA") or dist.read_text("PKG-INFO") or dist.read_text("") or ""
    head = dict(line.partition(": ")[::2] for line in text.partition("\n\n")[0].splitlines())
    return f"{head.get('Name')}=={head.get('Version')}"


def description(name: str, about: Mapping[str, str]) -> str:
    """What a scenario is, in markdown: stream, student, teachers, loss, memory.

    >>> print(description("tiny", {"student": "mlp", "loss": "1·KD(student ‖ previous)"}))
    **tiny**
    <BLANKLINE>
    - student: mlp
    - loss: 1·KD(student ‖ previous)
    """
    return "\n".join([f"**{name}**", "", *(f"- {key}: {text}" for key, text in about.items())])[:LONGEST_TAG]


def note(
    name: str,
    tags: Mapping[str, str],
    metrics: Mapping[str, Any],
    rows: list[list[float]],
    about: Mapping[str, str] = {},  # it is only read
) -> str:
    """The run's page in markdown: headline numbers, the accuracy matrix `rows` and what the run is about, as far as
    that fits into a tag."""
    heading = f"**{name}**, seed {tags.get('clkd.seed')}, on {tags.get('clkd.dataset')}"
    if "clkd.stand_in" in tags:
        heading += f" ({tags['clkd.stand_in']} stood in for it)"
    numbers = [f"- {name.replace('_', ' ')}: {percent(metrics.get(name))} %" for name in HEADLINES]
    text = "\n".join([heading, "", *numbers])
    table = "\n\nAccuracy in percent, after (rows) on (columns) experience:\n\n" + matrix_markdown(rows)
    rest = "\n\n" + "\n".join(f"- {key}: {line}" for key, line in about.items()) if about else ""
    for part in (table, rest):
        text += part if len(text) + len(part) <= LONGEST_TAG else ""
    return text[:LONGEST_TAG]


def matrix_markdown(rows: list[list[float]]) -> str:
    """The triangle as a table in percent.

    >>> print(matrix_markdown([[0.9], [0.5, 0.8]]))
    | | 0 | 1 |
    |---|---|---|
    | 0 | 90.0 | |
    | 1 | 50.0 | 80.0 |
    """
    columns = range(len(rows))
    lines = ["| | " + " | ".join(map(str, columns)) + " |", "|---" * (len(rows) + 1) + "|"]
    for i, row in enumerate(rows):
        cells = [f"| {percent(value)} " for value in row] + ["| "] * (len(rows) - len(row))
        lines.append(f"| {i} " + "".join(cells) + "|")
    return "\n".join(lines)


def matrix_csv(rows: list[list[float]]) -> str:
    """The triangle as fractions; `after` is the experience that was trained last."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["after", *(f"exp_{j:02d}" for j in range(len(rows)))])
    writer.writerows([f"exp_{i:02d}", *row, *[""] * (len(rows) - len(row))] for i, row in enumerate(rows))
    return text.getvalue()
