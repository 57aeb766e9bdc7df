"""What was asked for, what that became, how to do it again, and where and with what it was done."""

from __future__ import annotations

import os
import shlex

from clkd.page.markup import Content, Markup, tag
from clkd.page.story import Story
from clkd.page.tables import facts, folded
from clkd.tracking.store import hushed, plain

PACKAGES = ("python", "platform", "torch", "mlflow", "numpy")


def configuration(story: Story) -> Content:
    """Commands that can be copied, and the scenario."""
    typed = story.manifest.get("command")
    return [
        [tag("p", "As it was typed:"), _command(hushed(typed))] if typed else None,
        tag("p", "Every value as it was then, whatever became of the scenario's file:"),
        _command(_again(story)),
        folded("The scenario as written", tag("pre", story.text("scenario.yaml"))),
        folded("The scenario as resolved: every value", tag("pre", story.text("resolved.yaml"), class_="list")),
    ]


def _again(story: Story) -> str:
    """A command that makes the same run anew."""
    words = ["clkd", "run", os.path.relpath(story.path / "resolved.yaml"), "--set", "output=null"]
    if limit := story.manifest.get("limit_batches"):
        words += ["--limit-batches", str(limit)]
    if origin := story.manifest.get("origin"):
        words += ["--from", f"{origin['run']}@{origin['experience']}"]
    return shlex.join(words)


def _command(text: str) -> Markup:
    return tag("pre", tag("code", text), class_="command")


def surroundings(story: Story) -> Content:
    """Versions, device, commit, and where the run is."""
    tags, installed = story.tags, story.text("environment.txt")
    commit = tags.get("mlflow.source.git.commit")
    changed = " and changes that were not committed" if tags.get("clkd.git_dirty") == "true" else ""
    pairs: list[tuple[str, Content]] = [
        ("run", story.summary.id),
        ("directory", str(story.path)),
        ("group", story.summary.group),
        ("device", story.start.get("device")),
        ("clkd", tags.get("clkd.version")),
        ("plugins", tags.get("clkd.plugins")),
        *_versions(installed),
        ("git commit", f"{commit}{changed}" if commit else None),
        ("MLflow", _mlflow(story)),
    ]
    return [facts(pairs), folded("All installed packages", tag("pre", installed, class_="list")) if installed else None]


def _versions(installed: str) -> list[tuple[str, Content]]:
    """Of the packages that numbers may depend on, out of `environment.txt`."""
    lines = (line.replace("==", " ", 1).partition(" ") for line in installed.splitlines())
    found = {name.lower(): version for name, _, version in lines}
    return [(name, found.get(name)) for name in PACKAGES]


def _mlflow(story: Story) -> str | None:
    noted = (story.manifest.get("tracking") or {}).get("mlflow") or {}
    uri = plain(noted["uri"]) if "uri" in noted else None
    return f"{uri}, run {noted['run_id']}" if "run_id" in noted else uri
