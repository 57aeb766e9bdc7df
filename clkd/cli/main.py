"""The command `clkd`: its group of commands, and how failures end."""

from __future__ import annotations

import atexit
import gc
import importlib
import logging
import os
import sys
import traceback
from collections.abc import Sequence

import click
from click.exceptions import NoArgsIsHelpError

from clkd import __version__
from clkd.cli.common import State, alone
from clkd.errors import ClkdError, EchoError, PluginError, did_you_mean, one_line
from clkd.plugins import Plugins, load_plugins

log = logging.getLogger("clkd")

COMMANDS = (
    "run",
    "extend",
    "sweep",
    "runs",
    "compare",
    "validate",
    "explain",
    "show",
    "list",
    "plugins",
    "plugin",
    "schema",
    "cache",
    "track",
    "report",
    "ui",
    "reproduce",
    "doctor",
)
"""Each is the `command` of the module of its name in this package."""

INTERRUPTED = 130


class Commands(click.Group):
    """clkd's commands, each imported when it is asked for, and those that plugins add."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        try:
            added = self._added()
        except PluginError as error:  # help must come up in a house with two plugins of one name
            click.echo(f"clkd: warning: {error}", err=True)
            added = {}
        return [*COMMANDS, *sorted(set(added) - set(COMMANDS))]

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name in COMMANDS:
            command: click.Command = importlib.import_module(f"clkd.cli.{name}").command
            return command
        return self._added().get(name)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        if not name.startswith("-") and self.get_command(ctx, name) is None:
            ctx.fail(f"no such command '{name}' ({did_you_mean(name, self.list_commands(ctx))})")
        return super().resolve_command(ctx, args)

    def _added(self) -> dict[str, click.Command]:
        """The commands of plugins; loaded once, and not at all for a command of clkd's own."""
        if not self.commands:
            self.commands = added_commands(load_plugins())
        return dict(self.commands)


def added_commands(plugins: Plugins) -> dict[str, click.Command]:
    """What plugins add. One that fails in it adds nothing, and a warning says so: the others' commands are still there.

    Raises:
        PluginError: two plugins, or a plugin and clkd, have a command of one name.
    """
    owner = dict.fromkeys(COMMANDS, "clkd")
    found: dict[str, click.Command] = {}
    for each in sorted(plugins.manager.hook.clkd_register_commands.get_hookimpls(), key=lambda impl: impl.plugin_name):
        own = click.Group("own")
        try:
            each.function(cli=own)
        except (Exception, SystemExit) as error:  # a stranger may raise anything; it is reported, with its name
            reason = f"{type(error).__name__}: {one_line(' '.join(str(error).split()))}"
            log.warning("plugin '%s' adds no command: %s", each.plugin_name, reason)
            continue
        for name, command in own.commands.items():
            if name in owner:
                raise PluginError(
                    f"'{each.plugin_name}' adds the command '{name}', which {owner[name]} has already: rename it, or "
                    "uninstall one of them"
                )
            owner[name], found[name] = f"'{each.plugin_name}'", command
    return found


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="clkd")
def cli() -> None:
    """Train a student on a stream of experiences, distilled from its previous self and from teachers.

    Everything is declared in a scenario, one YAML file: `clkd run scenarios/split_cifar.yaml`. Begin with the tutorial
    in docs/tutorial.md; `clkd doctor` says whether this installation is sound.

    Exit codes: 0 done, 1 the run failed, 2 a mistake in the command or the scenario, 3 a plugin that is needed is
    broken, 4 tracking was required and cannot be reached, 130 Ctrl-C, 143 terminated.
    """


def in_one_line(error: click.ClickException) -> str:
    """What is wrong with a command line, where click takes four lines.

    >>> in_one_line(click.UsageError("No such option '--sede'."))
    "clkd: no such option '--sede' (clkd -h says what there is)"
    """
    context = getattr(error, "ctx", None)
    path = context.command_path if context else "clkd"
    told = one_line(" ".join(error.format_message().split()).replace(". (Did", " (did")).rstrip(".")
    return f"{path}: {told[:1].lower()}{told[1:]} ({path} -h says what there is)"


def _end_fast() -> None:
    """Collect garbage once, where Python's own end would do it again and again, over all that torch is made of."""
    gc.collect()
    gc.freeze()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code. What clkd can explain is one line on stderr, without a traceback."""
    atexit.register(_end_fast)
    state = State()
    speaks = alone() or os.environ["RANK"] == "0"  # of the processes that torchrun starts, one talks
    logging.basicConfig(format="clkd: %(message)s", level=logging.INFO if speaks else logging.ERROR, stream=sys.stderr)
    try:
        code = cli.main(arguments, prog_name="clkd", standalone_mode=False, obj=state)
        return code if isinstance(code, int) else 0
    except NoArgsIsHelpError as error:
        if speaks:
            error.show()
        return error.exit_code
    except click.ClickException as error:
        if speaks:
            click.echo(in_one_line(error), err=True)
        return error.exit_code
    except ClkdError as error:
        if state.verbose:
            traceback.print_exc()
        lines = getattr(error, "lines", None)  # of a scenario: each starts with its own place, for editors to follow
        if not isinstance(error, EchoError):
            click.echo("\n".join(lines) if lines else f"clkd: {error}", err=True)
        return error.exit_code
    except OSError as error:  # the surroundings: a full disk, a file that went away
        if state.verbose:
            traceback.print_exc()
        file = f"{error.filename}: " if error.filename else ""
        click.echo(f"clkd: {file}{error.strerror or one_line(str(error))} (-v shows where)", err=True)
        return ClkdError.exit_code
    except (click.Abort, KeyboardInterrupt):
        click.echo("clkd: interrupted", err=True)
        return INTERRUPTED
    except Exception as error:
        where = state.plugins.blame(error) if state.plugins and not state.verbose else None
        if where is None:  # a mistake of clkd's own: whoever mends it needs to see all of it
            raise
        click.echo(f"clkd: {where}: {type(error).__name__}: {one_line(str(error))} (-v shows how)", err=True)
        return ClkdError.exit_code
