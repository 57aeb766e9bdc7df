"""`clkd cache`: what the cache directory holds, whether the teachers' answers in it still hold, and making room."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import click

from clkd.cache import cache_directory
from clkd.cli.common import json_option, plugin_options, plugins_from, print_json, print_table
from clkd.errors import UserError
from clkd.locks import HeldError, beside, claimed
from clkd.page.words import moment
from clkd.teachers.answers import AlteredError, Answers, allocated, folders, remove, stat_of, used


@dataclass(frozen=True, slots=True)
class Entry:
    """One thing in the cache. `kind` is answers, data or teachers; `rows` are answers, each view of a row one."""

    kind: str
    key: str
    about: str
    bytes: int
    used: float
    path: str
    rows: int | None = None
    views: int | None = None
    teacher: str | None = None
    fingerprint: str | None = None


@click.group("cache", short_help="Look after the cache.")
def command() -> None:
    """Look after the cache: teachers' answers, decoded data sets, fitted teachers.

    It lies in $CLKD_CACHE, by default ~/.cache/clkd. All answers together take at most $CLKD_ANSWERS_GB (20).
    """


@command.command("list", short_help="List what the cache holds.")
@json_option
def list_(as_json: bool) -> None:
    """List what the cache holds, least recently used first."""
    found = _entries(cache_directory())
    if as_json:
        print_json([asdict(entry) for entry in found])
        return
    if not found:
        click.echo("the cache is empty", err=True)
        return
    rows = [
        (e.kind, e.key, e.about, "" if e.rows is None else f"{e.rows:,}", f"{e.bytes / 1e6:,.1f}", _date(e.used))
        for e in found
    ]
    print_table(("KIND", "KEY", "WHAT", "ROWS", "MB", "LAST USED"), rows)


@command.command(short_help="Ask teachers again about some rows.")
@click.argument("key", required=False)
@click.option("--rows", type=click.IntRange(min=1), default=512, show_default=True, help="Ask about so many again.")
@json_option
@plugin_options
def verify(key: str | None, rows: int, as_json: bool, plugins_dirs: tuple[Path, ...], disabled: tuple[str, ...]) -> int:
    """Ask each teacher about some rows again; exit with 1 where an answer in the cache is not what it says now.

    KEY is that of one file of answers (or its beginning); by default all are checked.
    """
    cache = cache_directory()
    found = [entry for entry in _entries(cache) if entry.kind == "answers"]
    chosen = found if key is None else [_chosen(found, key)]
    registry = plugins_from(plugins_dirs, disabled).registry
    wrong: dict[str, str | None] = {}
    if chosen:
        from clkd.engine.verify import verify as check  # loads torch: not before there is something to check

        wrong = {entry.key: check(Path(entry.path), registry, cache, rows) for entry in chosen}
    if as_json:
        print_json([{"key": key, "ok": why is None, "reason": why} for key, why in wrong.items()])
    elif not chosen:
        click.echo("there are no teachers' answers in the cache to verify", err=True)
    else:
        print_table(("KEY", "WHAT", "RESULT"), [(e.key, e.about, wrong[e.key] or "ok") for e in chosen])
    return 1 if any(wrong.values()) else 0


@command.command(short_help="Delete what KEY names, or a whole kind.")
@click.argument("key", required=False)
@click.option("--answers", is_flag=True, help="All teachers' answers.")
@click.option("--data", is_flag=True, help="All decoded data sets.")
@click.option("--teachers", is_flag=True, help="All fitted teachers.")
@click.option("--all", "everything", is_flag=True, help="All three.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@json_option
def clear(
    key: str | None, answers: bool, data: bool, teachers: bool, everything: bool, yes: bool, as_json: bool
) -> None:
    """Delete what KEY names (or begins), or a whole kind; runs that are going on are not harmed.

    Answers that a run is using stay, and so do data that it is decoding at this moment.
    """
    kinds = {"answers": answers or everything, "data": data or everything, "teachers": teachers or everything}
    found = _entries(cache_directory())
    if (key is None) == (not any(kinds.values())):
        raise click.UsageError("name one KEY (see `clkd cache list`), or --answers, --data, --teachers or --all")
    chosen = [_chosen(found, key)] if key is not None else [entry for entry in found if kinds[entry.kind]]
    if chosen and not yes:
        _ask(chosen)
    gone = [entry for entry in chosen if _delete(entry)]
    if as_json:
        print_json([asdict(entry) for entry in gone])
        return
    click.echo(f"deleted {len(gone)} ({sum(entry.bytes for entry in gone) / 1e6:,.1f} MB)")
    for entry in chosen:
        if entry not in gone:
            click.echo(f"kept {entry.key}: a run is using it")


def _ask(chosen: list[Entry]) -> None:
    if not sys.stdin.isatty():
        raise UserError("cache clear: nobody is there to confirm: add --yes")
    size = sum(entry.bytes for entry in chosen) / 1e6
    click.confirm(f"delete {len(chosen)} ({size:,.1f} MB)?", abort=True, err=True)


def _delete(entry: Entry) -> bool:
    path = Path(entry.path)
    if entry.kind == "answers":
        return remove(path)
    if entry.kind == "teachers":
        path.unlink(missing_ok=True)
        return True
    try:
        with claimed(beside(path), "deleting it"):
            shutil.rmtree(path, ignore_errors=True)
    except HeldError:
        return False
    return True


def _chosen(found: list[Entry], key: str) -> Entry:
    fitting = [entry for entry in found if entry.key.startswith(key)]
    if len(fitting) != 1:
        why = "nothing in the cache has it" if not fitting else f"{len(fitting)} keys begin so"
        raise UserError(f"cache: key '{key}': {why} (see `clkd cache list`)")
    return fitting[0]


def _entries(cache: Path) -> list[Entry]:
    found = [*map(_answers, folders(cache / "answers")), *_data(cache / "data"), *_teachers(cache / "teachers")]
    return sorted(found, key=lambda entry: entry.used)


def _answers(folder: Path) -> Entry:
    size, when = allocated(folder), used(folder)
    try:
        answers = Answers.open(folder)
        rows, views = answers.rows(), answers.views
    except (AlteredError, FileNotFoundError) as error:
        return Entry("answers", folder.name, f"altered: {error}", size, when, str(folder))
    meta, facts = answers.meta, answers.meta["facts"]
    domain = "" if facts["domain"] == "None" else f", {facts['domain']}"
    said = "+".join([*(["logits"] if facts["logits"] else []), *facts["features"]])
    weights = str(facts["teacher"].get("weights", ""))[:8]
    about = f"{meta['teacher']} {weights} on {meta['data']}{domain}: {said}, {views} views"
    return Entry("answers", folder.name, about, size, when, str(folder), rows, views, meta["teacher"], weights)


def _data(root: Path) -> Iterator[Entry]:
    for meta in root.glob("*/meta.json"):
        name, _, key = meta.parent.name.rpartition("-")
        yield Entry("data", key, name, allocated(meta.parent), used(meta.parent), str(meta.parent))


def _teachers(root: Path) -> Iterator[Entry]:
    for path in root.glob("*.safetensors"):
        name, _, key = path.stem.rpartition("-")
        if stat := stat_of(path):
            yield Entry("teachers", key, name, stat.st_size, stat.st_mtime, str(path))


def _date(seconds: float) -> str:
    return moment(seconds) if seconds else "?"
