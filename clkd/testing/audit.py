"""`clkd plugin check`: all parts of a plugin under their laws, and what its front door must keep."""

from __future__ import annotations

import importlib
import inspect
import logging
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType
from typing import Literal

from clkd import hooks
from clkd.data.source import UnavailableError
from clkd.errors import ClkdError, UserError, did_you_mean, one_line
from clkd.plugins import Plugins, import_file, isolated
from clkd.registry import NOTHING, OFFERS, Entry, noun
from clkd.testing.contract import LAWS, Verdict
from clkd.testing.parts import examine_part, example
from clkd.testing.tiny import Tiny

HEAVY = ("torch", "torchvision", "mlflow", "avalanche", "sklearn")


@dataclass(frozen=True, slots=True)
class PartAudit:
    """One part: `ok`, `broken`, or `not tried` (with the reason), and every law that was asked."""

    kind: str
    name: str
    status: Literal["ok", "broken", "not tried"]
    summary: str
    laws: tuple[Verdict, ...] = ()


@dataclass(slots=True)
class Audit:
    """One plugin. `troubles` are about all of it: that it does not load, or is slow to."""

    plugin: str
    origin: str
    parts: list[PartAudit] = field(default_factory=list)
    troubles: list[str] = field(default_factory=list)
    loads: bool = True

    @property
    def verdict(self) -> str:
        """In one line.

        >>> Audit("mine", "mine.py", troubles=["mine does not load: no"], loads=False).verdict
        'broken: it does not load'
        """
        if not self.loads:
            return "broken: it does not load"
        broken = [part.name for part in self.parts if part.status == "broken"]
        left = sum(part.status == "not tried" for part in self.parts)
        count = len(self.parts) - left
        tried = f"{count} part{'s' * (count != 1)} tried" + (f", {left} not" if left else "")
        if broken or self.troubles:
            return f"broken: {', '.join(broken) or 'the front door'} ({tried})"
        return f"ok ({tried})"

    @property
    def exit_code(self) -> int:
        return 0 if self.verdict.startswith("ok") else 1 if self.loads else 3


@dataclass(frozen=True, slots=True)
class _Found:
    """A plugin before it is imported."""

    name: str
    origin: str
    module: str
    path: Path | None = None
    """What Python's path needs before the module can be imported; or the module's own file."""

    def load(self) -> ModuleType:
        if self.path is not None and self.path.is_file():
            return import_file(self.path)
        if self.path is not None:
            sys.path.insert(0, str(self.path))
        return importlib.import_module(self.module)


def audit(what: str | None) -> list[Audit]:
    """Check one plugin, by path or name, or all that are installed.

    Raises:
        UserError: there is no such plugin.
    """
    return [_audit(found) for found in _find(what)]


def _find(what: str | None) -> list[_Found]:
    installed = sorted(entry_points(group=hooks.PROJECT), key=lambda entry: entry.name)
    if what is None:
        return [_installed(entry) for entry in installed]
    path = Path(what)
    if path.suffix == ".py" and path.is_file():
        return [_Found(path.stem, what, path.stem, path)]
    if path.is_dir():
        return list(_declared(path))
    named = [entry for entry in installed if what in (entry.name, entry.dist.name if entry.dist else "")]
    if not named:
        known = [entry.name for entry in installed]
        raise UserError(f"plugin '{what}': no such file or folder, and none is installed ({did_you_mean(what, known)})")
    return [_installed(entry) for entry in named]


def _installed(entry: EntryPoint) -> _Found:
    about = f"{entry.dist.name} {entry.dist.version}" if entry.dist else entry.value
    return _Found(entry.name, about, entry.module)


def _declared(folder: Path) -> Iterator[_Found]:
    """The plugins that a folder's pyproject.toml declares."""
    path = folder / "pyproject.toml"
    try:
        project = tomllib.loads(path.read_text(encoding="utf-8")).get("project", {})
    except FileNotFoundError:
        raise UserError(f"{folder} has no pyproject.toml: give a plugin's folder, or one of its files") from None
    except tomllib.TOMLDecodeError as error:
        raise UserError(f"{path}: {error}") from error
    declared = project.get("entry-points", {}).get(hooks.PROJECT, {})
    if not declared:
        raise UserError(f'{path} declares no plugin: add [project.entry-points.{hooks.PROJECT}] with NAME = "MODULE"')
    home = folder / "src" if (folder / "src").is_dir() else folder
    for name, module in declared.items():
        yield _Found(name, str(folder), module, home.resolve())


def _audit(found: _Found) -> Audit:
    done = Audit(found.name, found.origin)
    heavy = _heavy(found)
    try:
        plugins = isolated(found.load())
    except (Exception, SystemExit) as error:  # a stranger may raise anything; it is reported, with its name
        done.loads = False
        kind = "" if isinstance(error, ClkdError) else f"{type(error).__name__}: "
        done.troubles.append(f"{found.name} does not load: {kind}{one_line(' '.join(str(error).split()))}")
        return done
    if heavy:
        done.troubles.append(
            f"importing {found.module} loads {', '.join(heavy)}, which makes every clkd command slow: register parts "
            'as "module:name", so that they are imported when they are used'
        )
    logging.getLogger("clkd.data").setLevel(logging.WARNING)  # decoding 96 small rows is not worth a line
    own = [entry for entry in plugins.registry.entries.values() if entry.plugin == plugins.found[-1].name]
    with TemporaryDirectory() as folder:
        (Path(folder) / "cache").mkdir()
        tiny = Tiny(Path(folder), plugins, Path(folder) / "cache")
        done.parts += [_part(entry, tiny, plugins) for entry in own]
    return done


def _heavy(found: _Found) -> list[str]:
    """What importing the front door brings along, seen in a process of its own. A file may hold everything."""
    if found.path is not None and found.path.is_file():
        return []
    place = [] if found.path is None else [str(found.path)]
    code = (
        f"import sys, importlib; sys.path[:0] = {place!r}\n"
        f"import clkd.plugins; importlib.import_module({found.module!r})\n"
        f"print(*[name for name in {HEAVY!r} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    return done.stdout.split() if done.returncode == 0 else []


def _part(entry: Entry, tiny: Tiny, plugins: Plugins) -> PartAudit:
    kind = noun(entry.kind)
    try:
        plain = _faults(entry)
        if plain:
            return PartAudit(kind, entry.name, "broken", "; ".join(plain))
        if entry.kind not in LAWS:
            return PartAudit(kind, entry.name, "ok", "it loads; there are no laws of this kind")
        laws = tuple(examine_part(tiny, entry.kind, example(plugins.registry, entry.kind, entry.name)))
    except UnavailableError as error:
        return PartAudit(kind, entry.name, "not tried", one_line(str(error)))
    except UserError as error:
        return PartAudit(kind, entry.name, "not tried", one_line(str(error)))
    except Exception as error:  # as above
        return PartAudit(kind, entry.name, "broken", f"{type(error).__name__}: {one_line(str(error))}")
    if refused := _refused(laws):
        return PartAudit(kind, entry.name, "not tried", refused)
    broken, out = [law.law for law in laws if law.status == "broken"], [law for law in laws if law.status == "out"]
    if broken:
        return PartAudit(kind, entry.name, "broken", f"laws {', '.join(broken)}", laws)
    opted = f", {len(out)} opted out of" if out else ""
    return PartAudit(kind, entry.name, "ok", f"{len(laws) - len(out)} laws kept{opted}", laws)


def _refused(laws: Sequence[Verdict]) -> str:
    """What every law was told alike, if it was a mistake of the user's: what the part needs (a file) is not here."""
    told = {law.reason for law in laws if law.status != "out"}
    reason = told.pop() if len(told) == 1 else ""
    return reason.removeprefix("UserError: ") if reason.startswith("UserError: ") else ""


def _faults(entry: Entry) -> list[str]:
    """What is wrong with how it is registered."""
    faults = [] if entry.summary else ["it has no summary, which `clkd list` shows"]
    parameters = inspect.signature(entry.load).parameters
    if any(each.kind is each.VAR_KEYWORD for each in parameters.values()):
        return faults
    offers, options = OFFERS.get(entry.kind, NOTHING), set(entry.options.model_fields)
    faults += [f"option '{name}' is no parameter of its factory" for name in sorted(options - set(parameters))]
    needed = [name for name, each in parameters.items() if each.default is each.empty and name not in offers | options]
    return faults + [f"its factory needs '{name}', which is neither an option nor offered" for name in needed]
