"""The command line: each command in a module of its own under `commands/`, loaded when it is called for."""

import socket
import sys
from pathlib import Path
from typing import Annotated

import typer

from locum import __version__
from locum.config import DEFAULT_PATH, Config, ConfigError, load

app = typer.Typer(
    help="Keeps a service at its IP address when the server behind it dies.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

ConfigOption = Annotated[Path, typer.Option("--config", "-c", help="The configuration file.", metavar="FILE")]
NodeOption = Annotated[
    str, typer.Option("--node", "-n", help="This node's name.", metavar="NAME", show_default="host name")
]

BAD_USAGE = 2


def configured(path: Path) -> Config:
    """The configuration; on any problem its lines on standard error, and the end."""
    try:
        return load(path)
    except ConfigError as error:
        for problem in error.problems:
            print(problem, file=sys.stderr)
        raise typer.Exit(BAD_USAGE) from None


def _host_name() -> str:
    return socket.gethostname().partition(".")[0]


def _version(wanted: bool) -> None:
    if wanted:
        print(f"locum {__version__}")
        raise typer.Exit


@app.callback()
def common(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="The version.")] = False,
) -> None:
    pass


@app.command()
def run(
    config: ConfigOption = DEFAULT_PATH,
    node: NodeOption = "",
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log more.")] = False,
) -> None:
    """Run the agent in the foreground. SIGTERM releases everything in order."""
    from locum.commands import run as command

    raise typer.Exit(command.run(configured(config), node or _host_name(), verbose))


def main() -> None:
    """The program `locum`."""
    app(prog_name="locum")


if __name__ == "__main__":
    main()
