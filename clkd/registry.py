"""Names to parts: what plugins register, how options are checked, and how a part is built."""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from functools import cached_property
from pathlib import PurePath
from typing import Any, Protocol

from pydantic import ConfigDict, ValidationError, create_model
from pydantic_core import PydanticCustomError, PydanticSerializationError, to_jsonable_python

from clkd.errors import ClkdError, PluginError, did_you_mean
from clkd.options import (
    SELECTOR,
    SHARED,
    UNKNOWN_PART,
    Opened,
    Options,
    Parsing,
    Part,
    PartField,
    Place,
    mistakes,
    unknown_key,
    worded,
)

KINDS = (
    "losses", "memories", "retrievals", "transfers", "teachers", "models", "heads", "datasets", "streams", "schedules",
    "gradients", "metrics", "trackers", "methods",
)  # fmt: skip
REGISTER_HOOKS = {kind: f"clkd_register_{kind}" for kind in KINDS}
OF_THE_RUN = frozenset({"context", "seed", "shape", "class_names", "device"})
OFFERS: Mapping[str, frozenset[str]] = {
    "losses": OF_THE_RUN,
    "memories": OF_THE_RUN | {"student"},
    "transfers": OF_THE_RUN | {"experiences", "task_labels"},
    "teachers": OF_THE_RUN | {"teachers"},
    "models": OF_THE_RUN,
    "heads": OF_THE_RUN | {"in_features"},
    "streams": frozenset({"store", "seed", "offset"}),
    "metrics": frozenset({"base", "experiences", "class_names", "task_labels"}),
}
"""What a factory of each kind may name among its parameters beside its own options; those of other kinds, nothing."""
NOTHING: frozenset[str] = frozenset()


class Register(Protocol):
    """What a `clkd_register_*` hook is handed."""

    def __call__(
        self, name: str, factory: Callable[..., Any] | str, *, config: type[Options] | None = None, summary: str = ""
    ) -> None: ...


@dataclass(frozen=True)
class Entry:
    """One registered part: its factory (or where to import it from, `"module:name"`), its options, who brought it."""

    kind: str
    name: str
    factory: Callable[..., Any] | str
    config: type[Options] | None
    summary: str
    plugin: str
    origin: str

    @cached_property
    def load(self) -> Callable[..., Any]:
        """The factory itself, imported now if it was given as a string."""
        if not isinstance(self.factory, str):
            return self.factory
        module, _, attribute = self.factory.partition(":")
        try:
            factory: Callable[..., Any] = getattr(importlib.import_module(module), attribute)
        except ClkdError:
            raise
        except (Exception, SystemExit) as error:  # whatever is wrong with the author's file
            what = "" if isinstance(error, ImportError | AttributeError) else f"{type(error).__name__}: "
            raise PluginError(f"{self._whose} does not load: {what}{error}") from error
        return factory

    @cached_property
    def options(self) -> type[Options]:
        """The config model: the registered one, or the factory's own signature read as one."""
        model = self.config or self._inferred()
        for fault in (self.taken(model), _unsayable(model), _without_beginning(model)):
            if fault:
                raise PluginError(f"{self._whose}: {fault}")
        return model

    def _inferred(self) -> type[Options]:
        factory = self.load
        try:
            return _from_signature(self.name, factory, OFFERS.get(self.kind, NOTHING))
        except NameError as error:  # imported for type checkers only
            raise PluginError(
                f"{self._whose}: the types of its parameters cannot be read ({error}): import that name outside "
                "`if TYPE_CHECKING`, or register a config model"
            ) from error

    def taken(self, model: type[Options]) -> str | None:
        """What is wrong if an option has the name of a key that every part of this kind has."""
        common = {SELECTOR.get(self.kind, "kind"), *(SHARED[self.kind].model_fields if self.kind in SHARED else ())}
        found = next((key for key in model.model_fields if key in common), None)
        return found and f"every {noun(self.kind)} has a '{found}': rename this option"

    @property
    def _whose(self) -> str:
        return f"{self.kind}: '{self.name}' from plugin '{self.plugin}'"


@dataclass(slots=True)
class Registry:
    """All registered parts of this process, and which plugins could bring none because they are broken."""

    entries: dict[tuple[str, str], Entry] = field(default_factory=dict)
    broken: dict[str, str] = field(default_factory=dict)

    def register_for(self, kind: str, plugin: str, origin: str) -> Register:
        """The `register` function of one plugin and kind, so that every part knows who brought it."""

        def register(
            name: str, factory: Callable[..., Any] | str, *, config: type[Options] | None = None, summary: str = ""
        ) -> None:
            self.add(Entry(kind, name, factory, config, summary, plugin, origin))

        return register

    def add(self, entry: Entry) -> None:
        if not re.fullmatch(r"[\w.-]+", entry.name) or entry.name.startswith("."):
            raise ValueError(f"{entry.kind}: '{entry.name}' is no name: use letters, digits, '_', '-' and '.'")
        other = self.entries.get((entry.kind, entry.name))
        if other is not None:
            raise PluginError(
                f"{entry.kind}: '{entry.name}' is registered by '{other.plugin}' ({other.origin}) and by "
                f"'{entry.plugin}' ({entry.origin}): rename one, or leave one out with -p no:NAME"
            )
        if entry.config and (fault := entry.taken(entry.config)):
            raise ValueError(f"{entry.kind}: '{entry.name}': {fault}")
        self.entries[entry.kind, entry.name] = entry

    def forget(self, plugin: str) -> None:
        """Drop what a plugin registered before it broke."""
        self.entries = {key: entry for key, entry in self.entries.items() if entry.plugin != plugin}

    def provided_by(self, plugin: str) -> list[str]:
        return sorted(f"{entry.kind}:{entry.name}" for entry in self.entries.values() if entry.plugin == plugin)

    def names(self, kind: str) -> list[str]:
        return sorted(name for k, name in self.entries if k == kind)

    def _elsewhere(self, name: str) -> str:
        """What else has this name."""
        kind = next((kind for kind, known in sorted(self.entries) if known == name), None)
        own_key = f": write method: {name}" if kind == "methods" else ""
        return f"that is a {noun(kind)}{own_key}" if kind else ""

    def get(self, kind: str, name: object) -> Entry:
        """The entry, or an `UnknownPartError` that suggests what was meant and names the broken plugins."""
        entry = self.entries.get((kind, str(name)))
        if entry is None:
            suspects = "".join(f"; plugin '{plugin}' is broken: {why}" for plugin, why in sorted(self.broken.items()))
            hint = self._elsewhere(str(name)) or did_you_mean(str(name), self.names(kind))
            raise UnknownPartError(f"{noun(kind)} '{name}' is not known ({hint}){suspects}")
        return entry

    def parse(self, kind: str, raw: object, parsing: Parsing | None = None) -> Part:
        """Check what a scenario says of a part against the part's config model.

        Raises all mistakes as one pydantic `ValidationError`; without `parsing` (outside a scenario file) as a plain
        `ValueError`.

        >>> from clkd.options import Options
        >>> class KDOptions(Options):
        ...     temperature: float = 2.0
        >>> registry = Registry()
        >>> registry.register_for("losses", "mine", "mine.py")("kd", "mine:KD", config=KDOptions)
        >>> registry.parse("losses", {"kind": "kd", "temprature": 3})
        Traceback (most recent call last):
        ...
        ValueError: temprature: unknown key (did you mean 'temperature'?)
        """
        if parsing is not None:
            return self._parse(kind, raw, parsing)
        try:
            return self._parse(kind, raw, Parsing(self))
        except ValidationError as error:
            found = [f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors()]
        raise ValueError("; ".join(found))

    def _parse(self, kind: str, raw: object, parsing: Parsing) -> Part:
        name, given = _split(kind, raw)
        try:
            entry = self.get(kind, name)
        except UnknownPartError as error:
            selector = () if isinstance(raw, str) else (SELECTOR.get(kind, "kind"),)
            raise mistakes(
                [(selector, PydanticCustomError(UNKNOWN_PART, "{reason}", {"reason": str(error)}))]
            ) from error
        models = [entry.options] + ([SHARED[kind]] if kind in SHARED else [])
        known = [key for model in models for key in model.model_fields]
        found: list[tuple[Place, Any]] = []
        checked: list[Options] = []
        for model in models:
            own = {key: given.pop(key) for key in list(given) if _reads(model, key, known)}
            try:
                checked.append(model.model_validate(own, context=parsing))
            except ValidationError as error:
                found += [(item["loc"], worded(item, known)) for item in error.errors()]
        found += [((key,), unknown_key(key, known)) for key in given]
        if found:
            raise mistakes(found)
        return Part(kind, entry.name, *checked)

    def build(self, part: Part, **offers: Any) -> Any:
        """Make the part: its factory gets the options, and those of the offers that it names.

        An option goes before an offer of the same name. With a `context`, all that is `OF_THE_RUN` is offered.
        Schedules among the options are built here; any other nested part is the factory's to build.
        """
        factory = self.get(part.kind, part.name).load
        options = {name: self._built(getattr(part.options, name)) for name in type(part.options).model_fields}
        options |= part.options.model_extra or {}
        wanted = inspect.signature(factory).parameters
        if context := offers.get("context"):
            offers = {name: getattr(context, name) for name in (OF_THE_RUN & wanted.keys()) - offers.keys()} | offers
        return factory(**{name: value for name, value in offers.items() if name in wanted} | options)

    def _built(self, value: Any) -> Any:
        return self.build(value) if isinstance(value, Part) and value.kind == "schedules" else value


class UnknownPartError(ValueError):
    """No part of this kind is registered under this name."""


def _split(kind: str, raw: object) -> tuple[object, dict[str, Any]]:
    """`kd` and `{kind: kd, temperature: 2}` say the same thing."""
    selector = SELECTOR.get(kind, "kind")
    if isinstance(raw, str):
        return raw, {}
    if isinstance(raw, Opened) and selector not in raw:
        return raw.name, dict(raw)
    if not isinstance(raw, Mapping):
        raise ValueError(f"give a {noun(kind)}'s name, or a mapping with '{selector}'; got {type(raw).__name__}")
    if selector not in raw:
        raise ValueError(f"the {noun(kind)}'s '{selector}' is missing")
    return raw[selector], {str(key): value for key, value in raw.items() if key != selector}


def _reads(model: type[Options], key: str, known: list[str]) -> bool:
    """Whether an option is this model's; one that allows any takes those that no other has."""
    return key in model.model_fields or (model.model_config.get("extra") == "allow" and key not in known)


def noun(kind: str) -> str:
    """What one of a kind is called: `losses` are made of a `loss`."""
    singular = {"losses": "loss", "memories": "memory"}
    return singular.get(kind, kind.removesuffix("s"))


def _from_signature(name: str, factory: Callable[..., Any], offers: frozenset[str]) -> type[Options]:
    """The options of a part that registered no config model: its factory's keyword parameters."""
    fields: dict[str, Any] = {}
    for parameter in inspect.signature(factory, eval_str=True).parameters.values():
        if parameter.name in offers or parameter.kind in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL):
            continue
        default = ... if parameter.default is parameter.empty else parameter.default
        untold = type(default) if isinstance(default, PurePath | Enum) else Any  # which a resolved file has as text
        fields[parameter.name] = (untold if parameter.annotation is parameter.empty else parameter.annotation, default)
    return create_model(f"{name}Options", __base__=_Inferred, **fields)


def _unsayable(model: type[Options]) -> str | None:
    """What is wrong if an option's default is nothing that a scenario could say, as the resolved one will."""
    said: dict[str, Any] = {}
    judged = {key for each in model.__pydantic_decorators__.field_validators.values() for key in each.info.fields}
    for key, option in model.model_fields.items():
        # A validator of its own may look at options that are not there yet.
        if option.is_required() or key in judged or any(isinstance(each, PartField) for each in option.metadata):
            continue
        try:
            said[key] = to_jsonable_python(option.get_default(call_default_factory=True))
        except PydanticSerializationError:
            return (
                f"the default of '{key}' is {option.default!r}, which a scenario cannot say: let it be a name or a "
                "number, or register a config model"
            )
    try:
        model.model_validate(said)
    except ValidationError as error:
        for item in error.errors():
            if item["loc"] and (key := str(item["loc"][0])) in said:
                return (
                    f"the default of '{key}' is {said[key]!r}, which its own type refuses ({item['msg']}): widen the "
                    "type, as in `float | None`, or change the default"
                )
    except Exception:  # so may a validator of the whole model: a scenario that leaves nothing out will show
        return None
    return None


def _without_beginning(model: type[Options]) -> str | None:
    """What is wrong if an option is said to name what weights begin with, and cannot be left out."""
    for key in getattr(model, "begins_with", ()):
        if key not in model.model_fields or model.model_fields[key].is_required():
            return f"begins_with names '{key}', which is no option with a default to go back to"
    return None


class _Inferred(Options):
    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True)
