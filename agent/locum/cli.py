"""The command line: each command in a module of its own under `commands/`, loaded when it is called for."""

import socket
import sys
from pathlib import Path
from typing import Annotated

import typer

from locum import __version__
from locum.config import DEFAULT_PATH, Config, ConfigError

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
        from locum.hooks import ready

        return ready.read(path)
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


@app.command()
def check(
    config: ConfigOption = DEFAULT_PATH,
    node: NodeOption = "",
    bus: Annotated[
        bool, typer.Option("--bus", help="Measure whether the brokers are safe for the lease protocol, and how fast.")
    ] = False,
) -> None:
    """Look for every problem of the configuration, the hooks, the interfaces and the brokers."""
    from locum.commands import check as command

    if bus:
        raise typer.Exit(command.bus(configured(config)))
    raise typer.Exit(command.check(configured(config), node or _host_name()))


@app.command()
def status(
    config: ConfigOption = DEFAULT_PATH,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """Show who holds what, as heard on the bus now. Exits 1 unless every service has one active holder."""
    from locum.commands import status as command

    raise typer.Exit(command.status(configured(config), as_json))


@app.command()
def watch(config: ConfigOption = DEFAULT_PATH) -> None:
    """The same live: services, nodes, checks, and events as they come. Ctrl-C ends it."""
    from locum.commands import watch as command

    raise typer.Exit(command.watch(configured(config)))


@app.command()
def switchover(
    service: Annotated[str, typer.Argument(help="The service that is to move.")],
    to: Annotated[
        str, typer.Option("--to", help="The node that is to take it.", metavar="NODE", show_default="the next in order")
    ] = "",
    config: ConfigOption = DEFAULT_PATH,
    timeout: Annotated[float, typer.Option(help="Seconds to wait for the outcome.", min=1.0, max=86_400.0)] = 120.0,
) -> None:
    """Move a service to another node, and wait until it is there."""
    from locum.commands import switchover as command

    raise typer.Exit(command.switchover(configured(config), service, to or None, timeout))


ServiceArgument = Annotated[str, typer.Argument(help="The service that is meant.")]
NodeArgument = Annotated[str, typer.Argument(help="The node that is meant.")]
TimeoutOption = Annotated[float, typer.Option(help="Seconds to wait for the outcome.", min=1.0, max=86_400.0)]


@app.command()
def pause(service: ServiceArgument, config: ConfigOption = DEFAULT_PATH, timeout: TimeoutOption = 30.0) -> None:
    """Leave a service where it is: nothing moves it until `resume`, not even a restart of the agent there."""
    from locum.commands import operate

    raise typer.Exit(operate.of_service(configured(config), "pause", service, timeout))


@app.command()
def resume(service: ServiceArgument, config: ConfigOption = DEFAULT_PATH, timeout: TimeoutOption = 30.0) -> None:
    """Let a service that was paused or released move again."""
    from locum.commands import operate

    raise typer.Exit(operate.of_service(configured(config), "resume", service, timeout))


@app.command()
def release(service: ServiceArgument, config: ConfigOption = DEFAULT_PATH, timeout: TimeoutOption = 120.0) -> None:
    """In an emergency: take a service down, everywhere, until `resume`."""
    from locum.commands import operate

    raise typer.Exit(operate.of_service(configured(config), "release", service, timeout))


@app.command()
def drain(node: NodeArgument, config: ConfigOption = DEFAULT_PATH, timeout: TimeoutOption = 120.0) -> None:
    """Before maintenance: hand over all that a node holds; it takes nothing until `undrain` or a new start."""
    from locum.commands import operate

    raise typer.Exit(operate.of_node(configured(config), "drain", node, timeout))


@app.command()
def undrain(node: NodeArgument, config: ConfigOption = DEFAULT_PATH, timeout: TimeoutOption = 30.0) -> None:
    """Let a drained node take services again."""
    from locum.commands import operate

    raise typer.Exit(operate.of_node(configured(config), "undrain", node, timeout))


@app.command()
def reload(config: ConfigOption = DEFAULT_PATH, node: NodeOption = "", timeout: TimeoutOption = 120.0) -> None:
    """Let a node's agent work by the changed file, if all of it is valid; by the old one otherwise."""
    from locum.commands import operate

    raise typer.Exit(operate.of_node(configured(config), "reload", node or _host_name(), timeout))


@app.command()
def restart(config: ConfigOption = DEFAULT_PATH, node: NodeOption = "", timeout: TimeoutOption = 120.0) -> None:
    """Start a node's agent anew in place, as after an upgrade: it goes on with what it holds."""
    from locum.commands import operate

    raise typer.Exit(operate.of_node(configured(config), "restart", node or _host_name(), timeout))


@app.command()
def hooks(
    service: Annotated[str, typer.Argument(help="The service whose hooks are meant.")],
    phase: Annotated[str, typer.Option("--phase", "-p", help="Of this phase only.", metavar="PHASE")] = "",
    run: Annotated[str, typer.Option("--run", help="With --dry-run: what a phase would run.", metavar="PHASE")] = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print environments and commands; run nothing.")] = False,
    config: ConfigOption = DEFAULT_PATH,
    node: NodeOption = "",
) -> None:
    """List the hooks of a service, in the order in which they run, and where each comes from."""
    from locum.commands import hooks as command

    raise typer.Exit(command.hooks(configured(config), node or _host_name(), service, phase, run, dry_run))


@app.command()
def drop(config: ConfigOption = DEFAULT_PATH, node: NodeOption = "") -> None:
    """Take this node's service addresses off this host, after an agent that was killed (ExecStopPost=)."""
    from locum.commands import drop as command

    raise typer.Exit(command.drop(configured(config), node or _host_name()))


secure_app = typer.Typer(help="Keep strangers off the bus: certificates, access lists, keys.", no_args_is_help=True)
app.add_typer(secure_app, name="secure")


@secure_app.command("init")
def secure_init(
    out: Annotated[Path, typer.Option("--out", "-o", help="The folder to write to.", metavar="FOLDER")],
    reader: Annotated[
        list[str], typer.Option("--reader", help="Who only reads; may be given again.", metavar="NAME")
    ] = [],  # noqa: B006 (typer copies it)
    config: ConfigOption = DEFAULT_PATH,
) -> None:
    """Write authority, certificates, keys, mosquitto.conf and access lists for the nodes and brokers, ready to copy."""
    from locum.commands import secure as command

    raise typer.Exit(command.init(configured(config), out, reader))


@secure_app.command("key")
def secure_key() -> None:
    """Print a new key for signing, as a line for the file of keys."""
    from locum.commands import secure as command

    raise typer.Exit(command.key())


@app.command()
def demo(fast: Annotated[bool, typer.Option("--fast", help="Without pauses to read in.")] = False) -> None:
    """Show it on this machine: two hosts, a client and a broker in network namespaces. Needs no configuration."""
    from locum.commands import demo as command

    raise typer.Exit(command.demo(fast))


@app.command()
def schema() -> None:
    """Describe the topics and messages of the bus, as JSON."""
    from locum.commands import schema as command

    raise typer.Exit(command.schema())


def main() -> None:
    """The program `locum`."""
    app(prog_name="locum")


if __name__ == "__main__":
    main()
