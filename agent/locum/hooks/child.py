"""Runs one hook coroutine, in a process of its own: `python -I -u child.py PATH`.

So a coroutine that blocks or spins costs no beat, and can be killed at its timeout. The context comes from the LOCUM_
variables. Exit status 0: `hook(context)` returned; 1: it raised or returned False, and says why in its last line of
output. SIGTERM, which is the timeout, cancels the coroutine: it has the grace period for its `finally`.

This file imports the standard library only, and nothing of the agent: it starts fast, and it starts wherever the
agent's own Python is found, whether or not a virtual environment is active.
"""

import asyncio
import importlib.machinery
import importlib.util
import json
import os
import signal
import sys
import traceback
from dataclasses import dataclass, field
from typing import Any

_FRAMES_MAX = 5


@dataclass(frozen=True, slots=True)
class Context:
    """What `hook(context)` gets. Addresses carry their prefix length: "10.0.0.100/24"."""

    phase: str
    service: str
    address: str
    addresses: tuple[str, ...]
    interface: str
    node: str
    peer: str
    epoch: int
    reason: str
    unheard: tuple[str, ...] = ()
    hosts: dict[str, str] = field(default_factory=dict)
    hook: str = ""
    """A ready-made hook's name in the configuration."""
    parameters: Any = None
    """A ready-made hook's own: an instance of its class Parameters."""

    def log(self, text: object) -> None:
        """Write to the agent's log, line by line, at once."""
        print(text, flush=True)


def context_from(environment: dict[str, str], module: Any = None) -> Context:
    """The context that the LOCUM_ variables describe. KeyError if one is missing.

    `module`: the hook's file, whose Parameters a ready-made one is told.
    """
    told = environment.get("LOCUM_PARAMETERS")
    return Context(
        phase=environment["LOCUM_PHASE"],
        service=environment["LOCUM_SERVICE"],
        address=environment["LOCUM_ADDRESS"],
        addresses=tuple(environment["LOCUM_ADDRESSES"].split()),
        interface=environment["LOCUM_INTERFACE"],
        node=environment["LOCUM_NODE"],
        peer=environment["LOCUM_PEER"],
        epoch=int(environment["LOCUM_EPOCH"]),
        reason=environment["LOCUM_REASON"],
        unheard=tuple(environment["LOCUM_UNHEARD"].split()),
        hosts=dict(host.split("=", 1) for host in environment["LOCUM_HOSTS"].split()),
        hook=environment.get("LOCUM_HOOK", ""),
        parameters=module.Parameters(**json.loads(told)) if told else None,
    )


def load(path: str) -> Any:
    """The file as a module. No __pycache__ is left beside it."""
    sys.dont_write_bytecode = True
    # The loader is named, because the file's name may have dots in it.
    loader = importlib.machinery.SourceFileLoader("locum_hook", path)
    spec = importlib.util.spec_from_file_location("locum_hook", path, loader=loader)
    assert spec is not None, "a spec is made for every loader that is given"
    module = importlib.util.module_from_spec(spec)
    sys.modules["locum_hook"] = module  # dataclasses in it look themselves up here
    loader.exec_module(module)
    return module


async def run(hook: Any, context: Context) -> object:
    """What the hook returns. SIGTERM cancels it."""
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    return await hook(context)


def main(path: str) -> int:
    try:
        module = load(path)
        returned = asyncio.run(run(module.hook, context_from(dict(os.environ), module)))
    except SystemExit:
        raise  # sys.exit(3) in a hook means what it means in a script
    except BaseException as error:
        frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename == path]
        if frames:
            print("Traceback (most recent call last):")
            print("".join(traceback.format_list(frames[-_FRAMES_MAX:])), end="")
        print(traceback.format_exception_only(error)[-1], end="", flush=True)
        return 1
    if returned is False:
        if "LOCUM_PARAMETERS" not in os.environ:  # a ready-made hook has said why
            print("hook(context) returned False", flush=True)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
