"""What can be wrong with an installation of clkd, each with its remedy."""

from __future__ import annotations

import os
import platform
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Literal

import torch
from packaging.requirements import Requirement

from clkd import __version__
from clkd.cache import cache_directory
from clkd.data.store import trouble
from clkd.engine.device import choose_device
from clkd.errors import PluginError, TrackingError, UserError
from clkd.plugins import load_plugins
from clkd.ranks import ALONE
from clkd.teachers.answers import AlteredError, Answers, allocated, folders
from clkd.tracking.store import check_reachable, database, leftover, plain, resolve_uri

SHORT = 2 * 2**30
"""Bytes of disk under which the cache is told to be short of room."""


@dataclass(frozen=True, slots=True)
class Finding:
    """`ok`, a `note`, or `bad`; what it is about; and what to do, where something is to be done."""

    status: Literal["ok", "note", "bad"]
    about: str
    told: str
    remedy: str = ""


def findings() -> Iterator[Finding]:
    """All of them, one after another. None of them changes anything."""
    for look in LOOKS:
        yield from look()


def versions() -> Iterator[Finding]:
    """Whether what clkd requires is installed, in a version that it allows."""
    wrong = 0
    try:
        wanted = [Requirement(line) for line in requires("clkd") or ()]
    except PackageNotFoundError:
        yield Finding("note", "versions", "clkd runs from its sources and is not installed", "pip install -e .")
        return
    for each in wanted:
        if each.marker is not None and not each.marker.evaluate({"extra": ""}):
            continue
        try:
            found = version(each.name)
        except PackageNotFoundError:
            found = ""
        if not found or not each.specifier.contains(found, prereleases=True):
            wrong += 1
            told = f"{each.name} {found} is not {each.specifier}" if found else f"{each.name} is missing"
            yield Finding("bad", "versions", told, f"pip install '{each.name}{each.specifier}'")
    if not wrong:
        told = ", ".join(f"{name} {version(name)}" for name in ("torch", "mlflow"))
        yield Finding("ok", "versions", f"clkd {__version__}, Python {platform.python_version()}, {told}")


def device() -> Iterator[Finding]:
    """Which device a run would take, and whether it computes; a GPU that torch cannot see."""
    chosen = choose_device("auto", ALONE)
    try:
        right = bool((torch.ones(4, 4, device=chosen) @ torch.ones(4, 4, device=chosen) == 4).all())
    except RuntimeError as error:
        yield Finding("bad", "device", f"{chosen} fails: {str(error).splitlines()[0]}", "set device: cpu in scenarios")
        return
    if not right:
        yield Finding("bad", "device", f"{chosen} computes wrongly", "set device: cpu in scenarios")
        return
    told = torch.cuda.get_device_name(chosen) if chosen.type == "cuda" else f"{torch.get_num_threads()} threads"
    yield Finding("ok", "device", f"{chosen} ({told})")
    if chosen.type == "cpu" and (Path("/dev/nvidia0").exists() or shutil.which("nvidia-smi")):
        why = "this torch is built without CUDA" if torch.version.cuda is None else "its driver does not answer"
        yield Finding("note", "device", f"there is an NVIDIA GPU that torch does not see: {why}", "see pytorch.org")


def store() -> Iterator[Finding]:
    """Whether MLflow's store can be reached from here, and is not older than MLflow."""
    try:
        uri = resolve_uri(None)
        path = database(uri)
        if path is not None and not path.exists():
            yield Finding("ok", "store", f"{uri} (the first run makes it)")
            return
        check_reachable(uri)
        if path is not None and (old := _old_schema(path)):
            yield Finding(
                "bad", "store", f"{path} has the schema of another MLflow ({old})", f"mlflow db upgrade {uri}"
            )
            return
    except TrackingError as error:
        yield Finding(
            "bad",
            "store",
            str(error),
            "name a store that answers; what is missed meanwhile comes in by: clkd track sync",
        )
        return
    yield Finding("ok", "store", plain(uri))


def _old_schema(path: Path) -> str | None:
    """The schema's version, where MLflow's own is another. MLflow has no public word for it."""
    with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as opened:
        try:
            (found,) = opened.execute("SELECT version_num FROM alembic_version").fetchone() or ("",)
        except sqlite3.Error:
            found = "none"
    from mlflow.store.db.utils import _get_latest_schema_revision

    wanted: str = _get_latest_schema_revision()  # type: ignore[no-untyped-call]  # mlflow's
    return None if found == wanted else str(found)


def leftovers() -> Iterator[Finding]:
    """A folder of MLflow's old file store, which newer versions of MLflow do not write."""
    if found := leftover():
        yield Finding("note", "store", *found)


def plugins() -> Iterator[Finding]:
    """Plugins that do not load."""
    try:
        found = load_plugins()
    except PluginError as error:
        yield Finding("bad", "plugins", str(error), "pip uninstall one of them")
        return
    except UserError as error:
        yield Finding("bad", "plugins", str(error), "unset CLKD_LOAD_PLUGINS, or name installed plugins in it")
        return
    for plugin in found.broken():
        remedy = f"pip install -U {plugin.origin}, or leave it out: pip uninstall {plugin.origin}"
        yield Finding("bad", "plugins", f"'{plugin.name}' ({plugin.origin}) is broken: {plugin.reason}", remedy)
    guests = ", ".join(f"{plugin.name} {plugin.version}" for plugin in found.guests())
    if not found.broken():
        yield Finding("ok", "plugins", guests or "none beside clkd's own")


def data() -> Iterator[Finding]:
    """Whether the folder that `$CLKD_DATA` names is there."""
    named = os.environ.get("CLKD_DATA")
    if named and not Path(os.path.expanduser(named)).is_dir():
        yield Finding(
            "bad", "data", f"CLKD_DATA names {named}, which is no folder", "set it to one that holds data sets"
        )
    elif named:
        yield Finding("ok", "data", f"{named}, then the cache")


def cache() -> Iterator[Finding]:
    """Whether the cache can be written, has room, and holds what was put there."""
    try:
        path = cache_directory()
    except UserError as error:
        yield Finding("bad", "cache", str(error), "set CLKD_CACHE to a folder that can be written")
        return
    wrong = [*_altered_answers(path), *_altered_data(path)]
    yield from wrong
    free, held = shutil.disk_usage(path).free, sum(allocated(each) for each in path.glob("*") if each.is_dir())
    told = f"{path}: {held / 1e6:,.1f} MB, {free / 1e9:,.1f} GB free"
    if free < SHORT:
        yield Finding("note", "cache", told, "clkd cache clear --all, or set CLKD_CACHE to a larger disk")
    elif not wrong:
        yield Finding("ok", "cache", told)


def _altered_answers(path: Path) -> Iterator[Finding]:
    for folder in folders(path / "answers"):
        try:
            Answers.open(folder)
        except (AlteredError, FileNotFoundError) as error:
            told = f"a teacher's answers were altered: {error}"
            yield Finding("bad", "cache", told, f"clkd cache clear {folder.name}")


def _altered_data(path: Path) -> Iterator[Finding]:
    for folder in sorted(meta.parent for meta in (path / "data").glob("*/meta.json")):
        if why := trouble(folder):
            key = folder.name.rpartition("-")[2]
            told = f"{folder.name} was altered: {why}"
            yield Finding("bad", "cache", told, f"clkd cache clear {key} (it is decoded again when it is used)")


LOOKS: tuple[Callable[[], Iterator[Finding]], ...] = (versions, device, store, leftovers, plugins, data, cache)
