"""`locum hooks`: what would run for a service, in which order, and where it comes from. Runs nothing."""

import shlex
import sys

from locum.config import Config, ConfigError
from locum.hooks import Hook, HookContext, Phase, declared, find
from locum.hooks.context import ON_THE_WAY
from locum.hooks.ready import understood
from locum.hooks.runner import command_of, environment_of

EPOCH, REASON = 1, "dry-run"


def hooks(config: Config, node: str, service: str, phase: str, run: str, dry_run: bool) -> int:
    """0; 1 if something that lies there would not run; 2 for what does not exist, or `run` without `dry_run`."""
    if service not in config.services:
        print(f"there is no service {service!r} (there are {', '.join(config.services)})", file=sys.stderr)
        return 2
    known = [one.value for one in (*ON_THE_WAY, Phase.Standby)]
    for given in (phase, run):
        if given and given not in known:
            print(f"there is no phase {given!r} (there are {', '.join(known)})", file=sys.stderr)
            return 2
    if run and not dry_run:
        print("--run needs --dry-run: hooks are run by the agent, under a lease, and by nobody else", file=sys.stderr)
        return 2
    if dry_run and not run:
        print("--dry-run needs --run PHASE", file=sys.stderr)
        return 2
    try:
        config.require_node(node)
    except ConfigError as error:
        print("\n".join(error.problems), file=sys.stderr)
        return 2
    wanted = [Phase(run or phase)] if run or phase else [*ON_THE_WAY, Phase.Standby]
    wrong: list[str] = []
    number = 0
    for one in wanted:
        found, problems = _of(config, service, one)
        wrong += [problem for problem in problems if problem not in wrong]
        for hook in found:
            number += 1
            if run:
                _show(config, node, service, hook)
            else:
                print(f"{one.value:8} {hook.name:24} {_origin(config, service, hook)}")
    if not number:
        print(f"{service}: no hooks" + (f" in {run or phase}" if run or phase else ""))
    for problem in wrong:
        print(problem, file=sys.stderr)
    return 1 if wrong else 0


def _of(config: Config, service: str, phase: Phase) -> tuple[list[Hook], list[str]]:
    section = config.services[service]
    addresses = [str(address) for address in section.addresses]
    if phase is Phase.Standby:
        return [
            Hook(hook.path, phase, addresses[0], declared=hook) for hook in declared(section) if phase in hook.phases
        ], []
    found = find(section.hooks_dir, service, addresses, phase, declared(section))
    return found.hooks, [problem.text for problem in found.problems]


def _origin(config: Config, service: str, hook: Hook) -> str:
    if hook.declared is not None:
        beside = ", nobody waits for it" if hook.declared.beside else ""
        return f"{hook.declared.use}: [services.{service}.hooks] of the configuration{beside}"
    refused = f" ({hook.refused})" if hook.refused else ""
    return f"{hook.path} for {hook.address}{refused}"


def _show(config: Config, node: str, service: str, hook: Hook) -> None:
    """One hook as it would be run: its environment and its command, fit for a shell."""
    section = config.services[service]
    context = HookContext(
        phase=hook.phase,
        service=service,
        address=hook.address,
        addresses=tuple(str(address) for address in section.addresses),
        interface=section.interface,
        node=node,
        peer=next((other for other in section.nodes if other != node), ""),
        epoch=EPOCH,
        reason=REASON,
        hosts=tuple(f"{other}={config.nodes[other].address}" for other in section.nodes),
    )
    print(f"# {hook.phase.value} {hook.title} for {hook.address}")
    if hook.refused:
        print(f"# not run: {hook.refused}")
    print("env -i \\")
    for key, value in environment_of(hook, context).items():
        print(f"  {key}={shlex.quote(value)} \\")
    print("  " + shlex.join(command_of(hook)))
    if hook.declared is not None:
        code, parameters = understood(section, hook.declared.name)
        for command in getattr(code, "commands", lambda *_: [])(parameters, hook.phase.value):
            print(f"# which runs: {shlex.join(command)}")
    print()
