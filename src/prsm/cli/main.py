"""The ``prsm`` command.

Exit codes: 0 done, 1 refused or failed, 2 wrong usage or settings, 3 no node there, 4 not proven, 130 interrupted.
What is written in advance, for a model that is not there yet, is done (0), with a note on standard error.
"""

import gc
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from prsm import __version__
from prsm.cli import (
    alerts,
    ask,
    audit,
    demo,
    discovery,
    feedback,
    keys,
    liveness,
    market,
    model_import,
    models,
    prefer,
    privacy,
    proofs,
    rollout,
    route,
    safety,
    status,
    storage,
    teachers,
    train,
)
from prsm.cli.client import NodeUnreachable
from prsm.cli.context import context
from prsm.cli.screen import print_table, screen
from prsm.core.config import load_settings
from prsm.core.errors import ConfigError, PrsmError
from prsm.monitoring import logs

EXIT_REFUSED, EXIT_USAGE, EXIT_NO_NODE = 1, 2, 3

app = typer.Typer(
    help="One node of an AI network: ask models, see what it cost, verify the receipt.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("ask")(ask.ask)
app.command("wallet")(keys.wallet)
app.command("status")(status.status)
app.command("demo")(demo.demo)
app.command("feedback")(feedback.feedback)
models.app.command("quality")(feedback.quality)
models.app.command("health")(liveness.health)
models.app.command("import")(model_import.import_model)
app.add_typer(models.app, name="models")
app.add_typer(alerts.app, name="alerts")
app.add_typer(route.app, name="route")
app.add_typer(rollout.app, name="rollout")
app.add_typer(safety.app, name="safety")
app.add_typer(safety.breakers_app, name="breakers")
app.add_typer(keys.app, name="keys")
app.add_typer(market.app, name="market")
app.add_typer(storage.app, name="storage")
app.add_typer(discovery.app, name="discovery")
for command in (teachers.evaluate, teachers.publish, teachers.gate, teachers.decisions):
    train.app.command()(command)
app.add_typer(train.app, name="train")
app.add_typer(prefer.app, name="prefer")
app.add_typer(proofs.ledger_app, name="ledger")
app.add_typer(proofs.receipt_app, name="receipt")
app.add_typer(audit.app, name="audit")
app.add_typer(privacy.app, name="privacy")


@app.callback()
def options(
    home: Annotated[Path | None, typer.Option(help="Folder of the node (PRSM_HOME).")] = None,
    host: Annotated[str | None, typer.Option(help="Address of the node (PRSM_HOST).")] = None,
    port: Annotated[int | None, typer.Option(help="Port of the node (PRSM_PORT).")] = None,
    config: Annotated[Path | None, typer.Option(help="Settings file (default: prsm.toml in the home).")] = None,
    setting: Annotated[list[str] | None, typer.Option("--set", help="Any setting, as NAME=VALUE.")] = None,
) -> None:
    """Settings that every command shares; `prsm config` lists all."""
    flags: dict[str, Any] = {}
    for given in setting or []:
        name, separator, value = given.partition("=")
        if not separator:
            raise ConfigError(f"--set {given!r} is not NAME=VALUE.")
        flags[name] = value
    flags |= {name: v for name, v in (("home", home), ("host", host), ("port", port)) if v is not None}
    context.loaded = load_settings(os.environ, flags, config)


@app.command()
def up() -> None:
    """Start the node in the foreground; PostgreSQL and Valkey come with it unless the settings name others."""
    # Imported here: a whole node takes a second to import, and every other command does without. What it makes stays:
    # to look through it for garbage, meanwhile and whenever the start makes more, would be a quarter of that second.
    gc.disable()
    from prsm.cli.up import announce, run_node

    gc.freeze()
    gc.enable()
    settings = context.settings
    logs.configure(settings.log_level, settings.log_format)
    run_node(settings, lambda key: announce(screen(), settings, key))


@app.command()
def doctor() -> None:
    """Look at everything the node needs; exits 1 when something must be mended."""
    # Imported here, for it loads the models: see ``up``.
    from prsm.cli.doctor import examine

    if not examine(context.settings):
        raise typer.Exit(EXIT_REFUSED)


@app.command("config")
def show_config() -> None:
    """Show each setting: its value, where that came from, and what it means."""
    table = Table("setting", "value", "from", "meaning", box=None, pad_edge=False)
    for row in context.loaded.describe():
        table.add_row(*(str(cell) for cell in row))
    print_table(table)


@app.command()
def version() -> None:
    """Print the version."""
    print(__version__)


def main() -> None:
    """Run the command; an error is one sentence and an exit code, never a trace."""
    try:
        try:
            app()
        except SystemExit:
            print(end="", flush=True)
            raise
    except NodeUnreachable as error:
        _die(error, EXIT_NO_NODE)
    except ConfigError as error:
        _die(error, EXIT_USAGE)
    except PrsmError as error:
        _die(error, EXIT_REFUSED)
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(0)
    except OSError as error:
        # What standard output could not take is not tried again at the very end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        where = f"{error.filename}: " if error.filename else ""
        _die(PrsmError(f"{where}{error.strerror or error}."), EXIT_REFUSED)


def _die(error: PrsmError, code: int) -> None:
    print(f"prsm: {error}", file=sys.stderr)
    sys.exit(code)
