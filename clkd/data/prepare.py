"""From what a scenario says of its data to a store: find, decode or open, and stand in where data cannot be had."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from clkd.data.convert import convert
from clkd.data.source import Found, Places, Raw, Source, UnavailableError
from clkd.data.store import Store, log, open_or_build
from clkd.options import Options, Part

FORMAT = 2
"""Part of every cache key: raise it when decoding or converting changes."""


def prepare(part: Part, *, build: Callable[..., Source], cache: Path, base: Path) -> Store:
    """The data set that `part` describes, decoded at most once per machine.

    Args:
        part: the data set and its options.
        build: makes the source (`Registry.build`).
        cache: the cache directory.
        base: where relative paths start, the scenario file's folder.

    Raises:
        UnavailableError: it can be had nowhere and the scenario declares no `offline` data set.
        UserError: it was found and is not usable.
    """
    try:
        return _prepare(part, build, cache, base)
    except UnavailableError as reason:
        offline = getattr(part.options, "offline", None)
        if offline is None:
            raise
        log.warning("%s stands in for %s: %s", offline.name, part.name, reason)
    store = prepare(_shaped_like(offline, part.options), build=build, cache=cache, base=base)
    return replace(store, stand_in=store.name, requested=part.name)


def _prepare(part: Part, build: Callable[..., Source], cache: Path, base: Path) -> Store:
    source = build(part)
    found = source.find(
        Places(base, cache, source.root, lambda other: prepare(other, build=build, cache=cache, base=base))
    )

    def decode(scratch: Path) -> Raw:
        return convert(found.read(scratch), source.size, source.channels, source.rows_per_class)

    store = open_or_build(part.name, _key(part, found), cache, decode)
    return replace(store, augment=getattr(type(part.options), "augment", {}), stand_in=found.stand_in)


def _key(part: Part, found: Found) -> str:
    """What decoding depends on. A file's time and size stand for its content: hashing images would cost seconds."""
    options = part.options.model_dump(mode="json", exclude={"root", "offline"})
    files = [_stamp(path) for path in found.files]
    about = [FORMAT, part.name, options, files, *([found.content] if found.content else [])]
    text = json.dumps(about, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _stamp(path: Path) -> tuple[str, int, int]:
    name = str(path)
    try:
        stat = os.stat(name)
    except OSError:  # a link that leads nowhere, a file that has just gone: reading it will say so, with its name
        return name, -1, -1
    return name, stat.st_size, stat.st_mtime_ns


def _shaped_like(offline: Part, options: Options) -> Part:
    """The stand-in, converted to the shape that the requested data set would have had."""
    channels, size, _ = getattr(type(options), "shape", None) or (None, None, None)
    wanted = {
        "size": getattr(options, "size", None) or size,
        "channels": getattr(options, "channels", None) or channels,
        "rows_per_class": getattr(options, "rows_per_class", None),
    }
    missing = {key: value for key, value in wanted.items() if getattr(offline.options, key, None) is None}
    return replace(offline, options=offline.options.model_copy(update=missing))
