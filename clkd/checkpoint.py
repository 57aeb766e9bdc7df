"""A checkpoint: plain data and tensors on disk, complete or not there at all. Nothing is ever unpickled.

A checkpoint is a directory of two files. `state.safetensors` holds the tensors, `state.json` everything else, with the
tensors named by key and a checksum over both. It is written beside its place and renamed into it, so that whoever
stops the process leaves either the old one or the new one, and it is read back before an older one goes.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import re
import shutil
import tempfile
from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from clkd import __version__
from clkd.disk import sync
from clkd.errors import StorageError, UserError, one_line

SCHEMA = 2
"""What this clkd writes and reads. 2 may hold an experience under way."""
STATE, TENSORS = "state.json", "state.safetensors"
PARTIAL, REPLACED = ".partial", ".replaced"
TAG = "$"
"""The key that marks a JSON object as something JSON has no word for."""

HEAD, NUMBER = 40, re.compile(rb'\{"number": (\d+),')

log = logging.getLogger("clkd.checkpoint")


class CheckpointError(UserError):
    """A checkpoint is not there, or is not what was written."""


class SchemaError(CheckpointError):
    """A checkpoint is whole, but this clkd does not know its schema."""


def save(
    directory: Path,
    name: str,
    tree: dict[Any, Any],
    *,
    keep: int | None = None,
    beside: Collection[str] = (),
    needs: str | None = None,
) -> Path:
    """Write `tree` as the checkpoint `directory/name`, replacing one of that name only once the new one is complete.

    Args:
        directory: made if need be. One process at a time writes to it.
        name: of the checkpoint, a plain directory name.
        tree: nested dicts, lists and tuples of tensors, numbers, strings, bools and None. Tensors keep their type,
            shape, bits and order in memory and are stored as CPU tensors of their own, so shared memory is not shared
            afterwards.
        keep: how many of the newest checkpoints stay, beside those of a name in `beside`; None keeps all.
        beside: names that neither count nor go.
        needs: the name of another one here, without which this one is of no use.

    Raises:
        StorageError: the directory cannot be written, or the disk is full. The checkpoint before stays as it is.
        CheckpointError: what was written is not what is there.
        TypeError: the tree holds something else than the above.
    """
    if not name or name != Path(name).name or name.startswith("."):
        raise ValueError(f"'{name}' is no plain name: a checkpoint stays in its directory")
    document, tensors = _encode(tree)
    document["needs"] = needs
    partial = None
    try:
        directory.mkdir(parents=True, exist_ok=True)
        document = {"number": 1 + max((number for number, _ in _found(directory)), default=0), **document}
        partial = Path(tempfile.mkdtemp(prefix=f".{name}-", suffix=PARTIAL, dir=directory))
        _write(partial, document, tensors)
        place = _put(partial, directory / name)
        _verified(place)
        _tidy(directory, keep, beside)
    except (OSError, SafetensorError) as error:
        if partial is not None:
            shutil.rmtree(partial, ignore_errors=True)
        reason = getattr(error, "strerror", None) or error
        raise StorageError(
            f"{directory / name}: the checkpoint cannot be written: {reason}; the one before it stays: make room, then "
            f"go on with --resume"
        ) from error
    return place


def load(path: Path) -> dict[Any, Any]:
    """The tree that was saved at `path`, with its tensors on the CPU.

    Raises:
        CheckpointError: a file is missing, cut short or altered, or a newer clkd wrote it.
    """
    document = _verified(path)
    try:
        tree: dict[Any, Any] = _decode(document["tree"], load_file(path / TENSORS))
    except (KeyError, TypeError, ValueError, OSError, SafetensorError) as error:  # sums that fit, around nonsense
        raise CheckpointError(f"{path}: holds no state that clkd wrote ({type(error).__name__}: {error})") from error
    if not isinstance(tree, dict):
        raise CheckpointError(f"{path}: holds no state that clkd wrote")
    return tree


def latest(directory: Path) -> Path | None:
    """The newest checkpoint in `directory` that is complete and unaltered, as is the one it needs.

    Broken ones are warned of. None where none was ever saved.

    Raises:
        SchemaError: the newest is of another clkd's schema: going back behind it would lose what it holds.
        CheckpointError: there are checkpoints, and all of them are broken.
    """
    # One whose number cannot be read may be the newest: it is looked at first, to be named.
    found = sorted(_found(directory), key=lambda each: (not each[0], each), reverse=True)
    for _, path in found:
        try:
            needed = _verified(path).get("needs")
            if needed is not None:
                _verified(directory / needed)
        except SchemaError:
            raise
        except CheckpointError as error:
            log.warning("%s; an older checkpoint is looked for", error)
        else:
            return path
    if found:
        raise CheckpointError(
            f"{directory}: no checkpoint in it is whole: bring one back from a copy, or delete this folder to train "
            f"from the beginning"
        )
    return None


def remove(path: Path) -> None:
    """Delete a checkpoint, if it is there."""
    shutil.rmtree(path, ignore_errors=True)


# The tree as JSON


def _encode(tree: object) -> tuple[dict[str, Any], dict[str, Tensor]]:
    tensors: dict[str, Tensor] = {}
    return {"schema": SCHEMA, "clkd": __version__, "tree": _plain(tree, "", tensors)}, tensors


def _plain(value: object, path: str, tensors: dict[str, Tensor]) -> Any:
    """`value` in JSON's words; tensors met on the way are added to `tensors`."""
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else {TAG: "float", "value": str(float(value))}
    if isinstance(value, Tensor):
        return {TAG: "tensor", "key": _store(value, path, tensors), **_order(value)}
    if isinstance(value, dict):
        return _plain_dict(value, path, tensors)
    if isinstance(value, list | tuple):
        items = [_plain(item, f"{path}/{i}", tensors) for i, item in enumerate(value)]
        return items if isinstance(value, list) else {TAG: "tuple", "items": items}
    raise TypeError(f"a checkpoint cannot hold {type(value).__name__} (at '{path}'): give tensors and plain data")


def _plain_dict(value: dict[Any, Any], path: str, tensors: dict[str, Tensor]) -> Any:
    if all(isinstance(key, str) for key in value) and TAG not in value:
        return {key: _plain(item, f"{path}/{key}", tensors) for key, item in value.items()}
    pairs = [[_plain(key, path, tensors), _plain(item, f"{path}/{key}", tensors)] for key, item in value.items()]
    return {TAG: "dict", "pairs": pairs}


def _store(tensor: Tensor, path: str, tensors: dict[str, Tensor]) -> str:
    """Keep a CPU copy under its path. Two paths may read alike (the keys 0 and "0"), so a taken name is lengthened."""
    key = path or "/"
    while key in tensors:
        key += "'"
    tensors[key] = tensor.detach().to("cpu").resolve_conj().resolve_neg().clone(memory_format=torch.contiguous_format)
    return key


def _order(tensor: Tensor) -> dict[str, Any]:
    """How a tensor lies in memory where that is not row by row (channels-last): the last bits of sums depend on it."""
    if tensor.is_contiguous() or not torch.ops.aten.is_non_overlapping_and_dense(tensor):
        return {}
    return {"strides": list(tensor.stride())}


def _ordered(stored: Tensor, strides: list[int] | None) -> Tensor:
    """A tensor of its own, free of the file it was read from, in its old order."""
    if strides is None:
        return stored.clone()
    return torch.empty_strided(stored.shape, strides, dtype=stored.dtype).copy_(stored)


def _decode(plain: Any, tensors: dict[str, Tensor]) -> Any:
    if isinstance(plain, list):
        return [_decode(item, tensors) for item in plain]
    if not isinstance(plain, dict):
        return plain
    match plain.get(TAG):
        case None:
            return {key: _decode(item, tensors) for key, item in plain.items()}
        case "tensor":
            return _ordered(tensors[plain["key"]], plain.get("strides"))
        case "float":
            return float(plain["value"])
        case "tuple":
            return tuple(_decode(item, tensors) for item in plain["items"])
        case _:
            return {_decode(key, tensors): _decode(item, tensors) for key, item in plain["pairs"]}


# Files


def _write(directory: Path, document: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    save_file(tensors, directory / TENSORS)
    document["tensors_sha256"] = _file_sha(directory / TENSORS)
    document["sha256"] = _sha(document)
    (directory / STATE).write_text(_text(document), encoding="utf-8")
    for path in (directory / TENSORS, directory / STATE, directory):
        sync(path)


def _put(partial: Path, place: Path) -> Path:
    """Rename into place. A directory cannot be renamed over another, so an old one steps aside first: it stays a
    valid checkpoint, which `latest` finds, until the new one is there."""
    if place.exists():
        aside = place.with_name(f".{place.name}{REPLACED}")
        shutil.rmtree(aside, ignore_errors=True)
        place.rename(aside)
    partial.rename(place)
    sync(place.parent)
    return place


def _tidy(directory: Path, keep: int | None, beside: Collection[str]) -> None:
    """Remove what is no longer needed, now that a newer checkpoint is complete."""
    for path in directory.glob(".*"):
        if path.name.endswith((PARTIAL, REPLACED)):
            shutil.rmtree(path, ignore_errors=True)
    counted = [path for _, path in sorted(_found(directory), reverse=True) if path.name not in beside]
    for path in counted[keep:] if keep is not None else []:
        remove(path)


def _found(directory: Path) -> list[tuple[int, Path]]:
    """Checkpoints by number, which says better than the clock or the names which is newer; an unreadable one is 0."""
    places = [path for path in directory.glob("*") if not path.name.endswith(PARTIAL) and _looks_saved(path)]
    return [(_number(path), path) for path in places]


def _looks_saved(path: Path) -> bool:
    """Whether anything of a checkpoint is left at `path`."""
    return (path / STATE).exists() or (path / TENSORS).exists()


def _number(path: Path) -> int:
    """It stands at the beginning, so that saving does not read the whole of every checkpoint there is."""
    try:
        with (path / STATE).open("rb") as file:
            found = NUMBER.match(file.read(HEAD))
        if found:
            return int(found[1])
        return int(json.loads((path / STATE).read_bytes())["number"])
    except (OSError, ValueError, TypeError, KeyError, OverflowError, RecursionError):
        return 0


def _verified(path: Path) -> dict[str, Any]:
    """The document of `path`, once it and the tensors are proven to be what was written."""
    for file in (path / STATE, path / TENSORS):
        if not file.is_file():
            raise CheckpointError(f"{file}: missing, so this is no complete checkpoint")
    document = _parsed(path / STATE)
    schema = document.get("schema")
    if isinstance(schema, int) and schema > SCHEMA:
        wrote = f"clkd {one_line(str(document.get('clkd')), 20)} wrote it in schema {schema}"
        raise SchemaError(f"{path / STATE}: {wrote}, clkd {__version__} reads up to {SCHEMA}: upgrade clkd")
    if document.pop("sha256", None) != _sha(document):
        raise CheckpointError(f"{path / STATE}: altered since it was written (its checksum differs)")
    if schema != SCHEMA:
        wrote = f"clkd {document.get('clkd')} wrote it in schema {schema}"
        raise SchemaError(f"{path / STATE}: {wrote}, clkd {__version__} reads {SCHEMA}: go on with that clkd")
    if document.get("tensors_sha256") != _file_sha(path / TENSORS):
        raise CheckpointError(f"{path / TENSORS}: cut short or altered since it was written (its checksum differs)")
    return document


def _parsed(file: Path) -> dict[str, Any]:
    try:
        document = json.loads(file.read_bytes())
    except OSError as error:
        raise CheckpointError(f"{file}: cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{file}: cut short or altered, it is not JSON any more") from error
    if not isinstance(document, dict):
        raise CheckpointError(f"{file}: altered, it does not hold a checkpoint")
    return document


def _text(document: dict[str, Any]) -> str:
    return json.dumps(document, allow_nan=False)


def _sha(document: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(document).encode()).hexdigest()


def _file_sha(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}") from error
