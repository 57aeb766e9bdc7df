"""Finding plugins: built-ins and strangers come in by the same door, and one broken guest does not close the house.

pluggy's own entry-point loader stops at the first plugin that fails to import and skips the second of two with the
same name in silence, so the loading is done here, one by one, in the order of names.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType

import pluggy

from clkd import hooks
from clkd.errors import PluginError, UserError, did_you_mean
from clkd.registry import REGISTER_HOOKS, Registry

BUILT_IN = (
    "clkd.data",
    "clkd.streams",
    "clkd.models",
    "clkd.teachers",
    "clkd.losses",
    "clkd.memory",
    "clkd.transfer",
    "clkd.schedules",
    "clkd.metrics",
    "clkd.tracking",
    "clkd.scenario.methods",
)


@dataclass(slots=True)
class Plugin:
    """One plugin as found: loaded, broken (with the reason) or disabled."""

    name: str
    origin: str
    version: str = ""
    status: str = "ok"
    reason: str = ""
    hooks: list[str] = field(default_factory=list)
    provides: list[str] = field(default_factory=list)


@dataclass(slots=True)
class Plugins:
    """All plugins of this process: who they are, what they registered, and the hooks to call."""

    manager: pluggy.PluginManager
    registry: Registry
    found: list[Plugin] = field(default_factory=list)

    def broken(self) -> list[Plugin]:
        return [plugin for plugin in self.found if plugin.status == "broken"]


def load_plugins(directories: Iterable[Path] = (), disabled: Iterable[str] = ()) -> Plugins:
    """Load built-ins, installed plugins and the files of `directories`, and let each register its parts.

    `CLKD_LOAD_PLUGINS` (a comma list, empty for none) restricts installed plugins to those named.

    Raises:
        PluginError: two packages claim one plugin name, or two plugins one part's name.
        UserError: a directory does not exist, or a disabled name is unknown.
    """
    manager = pluggy.PluginManager(hooks.PROJECT)
    manager.add_hookspecs(hooks)
    plugins = Plugins(manager, Registry())
    off = set(disabled)
    for module in BUILT_IN:
        _admit(plugins, Plugin(module, "clkd"), importlib.import_module(module))
    for entry in _entry_points():
        _load_entry(plugins, entry, off)
    for path in _files(directories):
        _load_file(plugins, path, off)
    _refuse_unknown(off, plugins)
    return plugins


def _entry_points() -> Iterator[EntryPoint]:
    """Installed plugins in the order of names: the order of installation differs between machines."""
    claims: dict[str, list[EntryPoint]] = defaultdict(list)
    for entry in entry_points(group=hooks.PROJECT):
        if all(_package(entry) != _package(other) for other in claims[entry.name]):
            claims[entry.name].append(entry)
    for name, entries in sorted(claims.items()):
        if len(entries) > 1:
            packages = " and ".join(sorted(_package(entry) for entry in entries))
            raise PluginError(f"plugin name '{name}' is claimed by {packages}: uninstall one of them")
        yield entries[0]


def _package(entry: EntryPoint) -> str:
    return entry.dist.name if entry.dist else entry.value


def _load_entry(plugins: Plugins, entry: EntryPoint, off: set[str]) -> None:
    plugin = Plugin(entry.name, _package(entry), entry.dist.version if entry.dist else "")
    wanted = os.environ.get("CLKD_LOAD_PLUGINS")
    if entry.name in off or (wanted is not None and entry.name not in wanted.split(",")):
        plugin.status = "disabled"
        plugins.found.append(plugin)
        return
    try:
        module = entry.load()
    except Exception as error:  # a stranger's import may raise anything; it is reported, with its name, below
        plugins.found.append(_break(plugin, error))
        return
    _admit_guest(plugins, plugin, module)


def _files(directories: Iterable[Path]) -> Iterator[Path]:
    for directory in directories:
        if not directory.is_dir():
            raise UserError(f"--plugins-dir {directory}: no such directory")
        yield from sorted(path for path in directory.glob("*.py") if not path.name.startswith("_"))


def _load_file(plugins: Plugins, path: Path, off: set[str]) -> None:
    plugin = Plugin(path.stem, str(path))
    if path.stem in off:
        plugin.status = "disabled"
        plugins.found.append(plugin)
        return
    try:
        module = _import_file(path)
    except Exception as error:  # as above: reported with its name
        plugins.found.append(_break(plugin, error))
        return
    _admit_guest(plugins, plugin, module)


def _import_file(path: Path) -> ModuleType:
    name = f"clkd_plugins_dir_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec and spec.loader, f"{path} ends in .py, so Python has a loader for it"
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def _admit_guest(plugins: Plugins, plugin: Plugin, module: ModuleType) -> None:
    """Let a stranger in; what is wrong with it is its own affair, unless it takes somebody else's name."""
    try:
        _admit(plugins, plugin, module)
    except PluginError:
        raise
    except Exception as error:  # a broken guest is reported, and refused only where a scenario uses it
        if plugins.manager.get_plugin(plugin.name):
            plugins.manager.unregister(name=plugin.name)
        plugins.registry.forget(plugin.name)
        plugins.found.append(_break(plugin, error))


def _admit(plugins: Plugins, plugin: Plugin, module: ModuleType) -> None:
    _check_hook_names(plugin, module)
    plugins.manager.register(module, name=plugin.name)
    for kind, hook in REGISTER_HOOKS.items():
        implementation = getattr(module, hook, None)
        if implementation is not None:
            implementation(register=plugins.registry.register_for(kind, plugin.name, plugin.origin))
    plugin.hooks = sorted(name for name in vars(module) if _is_hook(module, name))
    plugin.provides = plugins.registry.provided_by(plugin.name)
    plugins.found.append(plugin)


def _is_hook(module: ModuleType, name: str) -> bool:
    return name.startswith("clkd_") and hasattr(getattr(module, name), f"{hooks.PROJECT}_impl")


def _check_hook_names(plugin: Plugin, module: ModuleType) -> None:
    """pluggy accepts any misspelt hook in silence: say so instead."""
    known = [name for name in vars(hooks) if name.startswith("clkd_")]
    for name in vars(module):
        if _is_hook(module, name) and name not in known:
            raise PluginNameError(f"plugin '{plugin.name}' ({plugin.origin}): unknown hook '{name}', {did_you_mean(name, known)}")


class PluginNameError(Exception):
    """A guest implements a hook that does not exist."""


def _break(plugin: Plugin, error: Exception) -> Plugin:
    plugin.status = "broken"
    plugin.reason = str(error) if isinstance(error, PluginNameError) else f"{type(error).__name__}: {error}"
    return plugin


def _refuse_unknown(disabled: set[str], plugins: Plugins) -> None:
    names = [plugin.name for plugin in plugins.found if plugin.name not in BUILT_IN]
    for name in sorted(disabled - set(names)):
        raise UserError(f"-p no:{name}: no such plugin, {did_you_mean(name, names)}")
