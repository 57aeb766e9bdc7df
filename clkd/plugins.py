"""Finding plugins: built-ins and strangers come in by the same door, and one broken guest does not close the house.

pluggy's own entry-point loader stops at the first plugin that fails to import and skips the second of two with the
same name in silence, so the loading is done here, one by one, in the order of names.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
import os
import sys
import traceback
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType

import pluggy

from clkd import __version__, hooks
from clkd.errors import PluginError, UserError, did_you_mean
from clkd.registry import REGISTER_HOOKS, Registry

log = logging.getLogger("clkd")

BUILT_IN = (
    "clkd.data",
    "clkd.streams",
    "clkd.models",
    "clkd.teachers",
    "clkd.losses",
    "clkd.memory",
    "clkd.transfer",
    "clkd.schedules",
    "clkd.gradients",
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

    def guests(self) -> list[Plugin]:
        """The plugins at work that did not come with clkd."""
        return [plugin for plugin in self.found if plugin.status == "ok" and plugin.origin != "clkd"]

    def broken(self) -> list[Plugin]:
        return [plugin for plugin in self.found if plugin.status == "broken"]

    def blame(self, error: BaseException) -> str | None:
        """Where in a guest's code an error arose; None where clkd's own code was the last of the two."""
        modules = {plugin.name: self.manager.get_plugin(plugin.name) for plugin in self.guests()}
        packages = {_top(getattr(module, "__name__", "")): name for name, module in modules.items()}
        for frame, line in reversed(list(traceback.walk_tb(error.__traceback__))):
            package = _top(frame.f_globals.get("__name__", ""))
            if package in packages:
                return f"plugin '{packages[package]}' failed at {frame.f_code.co_filename}:{line}"
            if package == "clkd":
                break
        return None


def _top(module: str) -> str:
    return module.partition(".")[0]


def plugin_manager() -> pluggy.PluginManager:
    """Knows the hooks, and nobody yet who implements them."""
    manager = pluggy.PluginManager(hooks.PROJECT)
    manager.add_hookspecs(hooks)
    return manager


def load_plugins(directories: Iterable[Path] = (), disabled: Iterable[str] = ()) -> Plugins:
    """Load built-ins, installed plugins and the files of `directories`, and let each register its parts.

    `CLKD_LOAD_PLUGINS` (a comma list, empty for none) restricts installed plugins to those named.

    Raises:
        PluginError: two packages claim one plugin name, or two plugins one part's name.
        UserError: a directory does not exist, or a disabled name is unknown.
    """
    plugins, off = isolated(), set(disabled)
    for entry in _entry_points():
        _load_entry(plugins, entry, off)
    for path in _files(directories):
        _load_file(plugins, path, off)
    _refuse_unknown(off, plugins)
    for plugin in plugins.broken():
        plugins.registry.broken[plugin.name] = plugin.reason
        log.warning("plugin '%s' (%s) is broken: %s", plugin.name, plugin.origin, plugin.reason)
    return plugins


def isolated(*modules: ModuleType) -> Plugins:
    """clkd's own parts and those of `modules`, whatever else is installed here: what a test of a plugin wants.

    A mistake in one of the modules is raised as it is.
    """
    plugins = Plugins(plugin_manager(), Registry())
    for name in BUILT_IN:
        plugins.found.append(Plugin(name, "clkd", __version__))
        _admit(plugins, plugins.found[-1], importlib.import_module(name))
    for module in modules:
        plugins.found.append(Plugin(module.__name__, str(module.__file__)))
        _admit(plugins, plugins.found[-1], module)
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
    wanted = _wanted()
    _load(plugins, plugin, entry.load, entry.name in off or (wanted is not None and entry.name not in wanted))


def _wanted() -> list[str] | None:
    """The installed plugins to load; None for all."""
    listed = os.environ.get("CLKD_LOAD_PLUGINS")
    return None if listed is None else [name.strip() for name in listed.split(",") if name.strip()]


def _load(plugins: Plugins, plugin: Plugin, read: Callable[[], ModuleType], disabled: bool) -> None:
    """Let a stranger in. What is wrong with it is its own affair, unless it takes somebody else's name."""
    _refuse_namesake(plugins, plugin)
    plugins.found.append(plugin)
    if disabled:
        plugin.status = "disabled"
        return
    try:
        _admit(plugins, plugin, read())
    except PluginError:
        raise
    except (Exception, SystemExit) as error:  # a stranger may raise anything; it is reported, with its name
        if plugins.manager.has_plugin(plugin.name):
            plugins.manager.unregister(name=plugin.name)
        plugins.registry.forget(plugin.name)
        plugin.status, plugin.reason = "broken", _one_line(error)


def _refuse_namesake(plugins: Plugins, plugin: Plugin) -> None:
    for other in plugins.found:
        if other.name == plugin.name:
            raise PluginError(
                f"plugin name '{plugin.name}' is claimed by {other.origin} and {plugin.origin}: remove one of them"
            )


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return text if isinstance(error, HookError) else f"{type(error).__name__}: {text}"


def _files(directories: Iterable[Path]) -> Iterator[Path]:
    for directory in directories:
        if not directory.is_dir():
            raise UserError(f"--plugins-dir {directory}: no such directory")
        yield from sorted(path for path in directory.glob("*.py") if not path.name.startswith("_"))


def _load_file(plugins: Plugins, path: Path, off: set[str]) -> None:
    _load(plugins, Plugin(path.stem, str(path)), lambda: import_file(path), path.stem in off)


def import_file(path: Path) -> ModuleType:
    """A plugin file as a module, under a name of its own."""
    name = f"clkd_plugins_dir_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None  # noqa: PT018  # one fact: Python has a loader for any .py
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def _admit(plugins: Plugins, plugin: Plugin, module: ModuleType) -> None:
    _check_hook_names(plugin, module)
    plugins.manager.register(module, name=plugin.name)
    for kind, hook in REGISTER_HOOKS.items():
        if hook in vars(module):
            getattr(module, hook)(register=plugins.registry.register_for(kind, plugin.name, plugin.origin))
    plugin.hooks = sorted(name for name in vars(module) if _is_hook(module, name))
    plugin.provides = plugins.registry.provided_by(plugin.name)


def _is_hook(module: ModuleType, name: str) -> bool:
    return name.startswith("clkd_") and hasattr(getattr(module, name), f"{hooks.PROJECT}_impl")


def _check_hook_names(plugin: Plugin, module: ModuleType) -> None:
    """pluggy passes over misspelt hooks, and hooks that lack the marker, in silence: say so instead."""
    known = [name for name in vars(hooks) if name.startswith("clkd_")]
    for name in vars(module):
        if _is_hook(module, name) and name not in known:
            raise HookError(f"unknown hook '{name}' ({did_you_mean(name, known)})")
        if name in known and not _is_hook(module, name):
            raise HookError(f"'{name}' is not marked: write @hookimpl (from clkd import hookimpl) above it")


class HookError(Exception):
    """A plugin implements a hook that does not exist, or does not say that it does."""


def _refuse_unknown(disabled: set[str], plugins: Plugins) -> None:
    """A plugin that is switched on or off by name must exist, or the switch would do nothing."""
    guests = [plugin.name for plugin in plugins.found if plugin.origin != "clkd"]
    for name in sorted(disabled - set(guests)):
        raise UserError(f"-p no:{name}: no such plugin ({did_you_mean(name, guests)})")
    for name in _wanted() or ():
        if name not in guests:
            raise UserError(f"CLKD_LOAD_PLUGINS: no plugin '{name}' is installed ({did_you_mean(name, guests)})")
