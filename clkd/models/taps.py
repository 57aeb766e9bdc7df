"""Taps: what a module deep inside a backbone put out, beside the backbone's own output."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from torch import Tensor, nn

from clkd.errors import UserError, did_you_mean

PENULTIMATE = "penultimate"
"""The tap that every backbone has: its output."""


class Tap:
    """A hook that keeps its module's output, or input, for the one forward pass in which it is wanted.

    It knows neither module nor backbone, so a deep copy of the backbone gets taps of its own.
    """

    def __init__(self, name: str, clone: bool) -> None:
        self.name = name
        self.clone = clone
        self.wanted = False
        self.value: Tensor | None = None

    def after(self, module: nn.Module, args: tuple[object, ...], output: object) -> None:
        """A forward hook."""
        self._keep(output, "gives")

    def before(self, module: nn.Module, args: tuple[object, ...]) -> None:
        """A forward pre-hook: it sees the input before the module can overwrite it."""
        self._keep(args[0] if args else None, "takes")

    def _keep(self, value: object, verb: str) -> None:
        if not self.wanted:
            return
        if not isinstance(value, Tensor):
            raise UserError(f"tap '{self.name}': the module {verb} a {type(value).__name__}, not a tensor: tap another")
        self.value = value.clone() if self.clone else value

    def kept(self) -> Tensor:
        """What the forward pass left here."""
        if self.value is None:
            raise UserError(f"tap '{self.name}': the forward pass does not run this module: tap another")
        return self.value

    def forget(self) -> None:
        """Let go of the output, and of the graph behind it."""
        self.wanted, self.value = False, None


class Taps:
    """The bound taps of one backbone, by alias (`penultimate`, `stage1`, …) or module path (`layer2.0.conv1`).

    A path that ends in `:in` taps what goes into a module, such as `layer2.0.relu2:in`: what a ReLU is about to cut
    off.

    Hooks are bound before a model is compiled and stay; a forward pass keeps only what it is asked for. A module that
    runs several times is tapped at its last run. An operation that later overwrites the output in place (an in-place
    ReLU behind a batch norm, `out += shortcut`) cannot change what was kept: it is a clone, unless the backbone says
    that nothing in it writes in place (`in_place = False`).
    """

    def __init__(self) -> None:
        self.bound: dict[str, Tap] = {}

    def bind(self, backbone: nn.Module, names: Iterable[str]) -> None:
        """Hook the named modules; those already hooked stay as they are.

        Raises:
            UserError: a name is neither an alias nor a module's path.
        """
        stages: dict[str, str] = getattr(backbone, "stages", {})
        aliases = stages | getattr(backbone, "before_relu", {})
        modules = {path: module for path, module in backbone.named_modules() if path}
        for name in names:
            if name == PENULTIMATE or name in self.bound:
                continue
            path, _, end = aliases.get(name, name).partition(":")
            module = modules.get(aliases.get(path, path))
            if module is None or end not in ("", "in"):
                raise UserError(f"tap '{name}' is not known, {_suggest(name, stages, [*aliases, *modules])}")
            tap = Tap(name, clone=getattr(backbone, "in_place", True))
            if end:
                module.register_forward_pre_hook(tap.before)
            else:
                module.register_forward_hook(tap.after)
            self.bound[name] = tap

    def run(self, backbone: nn.Module, x: Tensor, names: tuple[str, ...]) -> tuple[Tensor, dict[str, Tensor]]:
        """One forward pass: the output `[B, D]`, and the outputs of the named taps.

        Raises:
            UserError: a tap was not bound, its module does not run, or gives no tensor.
        """
        taps = [self._get(name) for name in names if name != PENULTIMATE]
        for tap in taps:
            tap.wanted = True
        try:
            output: Tensor = backbone(x)
            kept = {tap.name: tap.kept() for tap in taps}
        finally:
            for tap in taps:
                tap.forget()
        return output, {name: kept.get(name, output) for name in names}

    def _get(self, name: str) -> Tap:
        if name not in self.bound:
            raise UserError(f"tap '{name}' was never requested: call request(['{name}']) before the model is used")
        return self.bound[name]


Runner = Callable[[Taps, nn.Module, Tensor, tuple[str, ...]], tuple[Tensor, dict[str, Tensor]]]
"""`Taps.run`, or something that does the same faster."""


def _suggest(name: str, stages: dict[str, str], known: list[str]) -> str:
    """The closest name of all; failing that the stages, as a list of every module would be no help."""
    close = did_you_mean(name, [PENULTIMATE, *known])
    if close.startswith("did you mean"):
        return close
    return f"{did_you_mean(name, [PENULTIMATE, *stages])}, or a module's path"
