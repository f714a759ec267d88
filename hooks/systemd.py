"""Starts a systemd unit on the way up and stops it on the way down, over D-Bus, and waits for the job's result.

    "20_web" = { use = "systemd", unit = "nginx.service" }

Before the address is taken, or after it with phase = "PostAcq". The unit must not be enabled: systemd would start it at
boot, on every node.

Source: org.freedesktop.systemd1(5): StartUnit, StopUnit, JobRemoved.
"""

import asyncio
import contextlib
import re
import shutil
import subprocess
from dataclasses import dataclass
from typing import Any, Literal

NAME = "org.freedesktop.systemd1"
PATH = "/org/freedesktop/systemd1"
MANAGER = f"{NAME}.Manager"
ASK_SECONDS = 10.0
SUFFIXES = ("service", "socket", "target", "mount", "timer", "path", "swap", "slice", "automount")


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameters:
    unit: str
    """Such as "nginx.service"."""
    phase: Literal["PreAcq", "PostAcq"] = "PreAcq"
    """When it is started."""
    bus: str = ""
    """Of another systemd than this host's, such as a container's: "unix:path=/run/shop/system_bus_socket"."""

    def __post_init__(self) -> None:
        name, _, suffix = self.unit.rpartition(".")
        if not name or suffix not in SUFFIXES or not re.fullmatch(r"[A-Za-z0-9:_.@\\\\-]+", self.unit):
            raise ValueError(f'unit: {self.unit!r} is no unit such as "nginx.service"')


def phases(parameters: Parameters) -> set[str]:
    return {parameters.phase, "PreRel"}


def commands(parameters: Parameters, phase: str) -> list[list[str]]:
    return [["systemctl", "stop" if phase == "PreRel" else "start", parameters.unit]]


def problems(parameters: Parameters) -> list[str]:
    if parameters.bus:
        return []  # systemctl speaks with this host's systemd only
    if shutil.which("systemctl") is None:
        return ["systemd does not run here: there is no systemctl"]
    show = ["systemctl", "show", "--property=LoadState,UnitFileState", parameters.unit]
    try:
        shown = subprocess.run(show, capture_output=True, text=True, timeout=ASK_SECONDS, check=False)
    except (OSError, subprocess.SubprocessError) as error:
        return [f"systemd cannot be asked: {error}"]
    if shown.returncode:
        return [f"systemd cannot be asked: {shown.stderr.strip()}"]
    said = dict(line.partition("=")[::2] for line in shown.stdout.splitlines())
    if said.get("LoadState") != "loaded":
        return [f"{parameters.unit} is {said.get('LoadState', 'unknown')} here: install what has it, or mend its name"]
    if said.get("UnitFileState") in ("enabled", "enabled-runtime", "linked"):
        return [f"{parameters.unit} is started at boot, whoever holds the service: systemctl disable {parameters.unit}"]
    return []


class Systemd:
    """The manager's bus, from `async with` on."""

    def __init__(self, bus: str) -> None:
        from dbus_fast import BusType
        from dbus_fast.aio import MessageBus

        self._bus = MessageBus(bus or None, bus_type=BusType.SYSTEM)
        self._removed: dict[str, asyncio.Future[str]] = {}
        self._early: dict[str, str] = {}

    async def __aenter__(self) -> "Systemd":
        await self._bus.connect()
        self._bus.add_message_handler(self._hear)
        match = f"type='signal',sender='{NAME}',interface='{MANAGER}',member='JobRemoved',path='{PATH}'"
        # Before any job: its end must not be missed.
        await self._call(
            "org.freedesktop.DBus", "/org/freedesktop/DBus", "org.freedesktop.DBus", "AddMatch", "s", match
        )
        await self.ask("Subscribe")
        return self

    async def __aexit__(self, *_: object) -> None:
        self._bus.disconnect()

    def _hear(self, message: Any) -> None:
        if message.member == "JobRemoved" and message.path == PATH:
            _, job, _, result = message.body
            waiting = self._removed.get(job)
            if waiting is None:
                self._early[job] = result
            elif not waiting.done():
                waiting.set_result(result)

    async def _call(self, to: str, path: str, interface: str, member: str, signature: str, *body: Any) -> list[Any]:
        from dbus_fast import Message, MessageType

        call = Message(
            destination=to, path=path, interface=interface, member=member, signature=signature, body=list(body)
        )
        answer = await self._bus.call(call)
        if answer is None:
            raise ConnectionError("systemd does not answer")
        if answer.message_type is MessageType.ERROR:
            raise Refused(str(answer.error_name), str(answer.body[0]) if answer.body else "")
        return list(answer.body)

    async def ask(self, member: str, signature: str = "", *body: Any) -> list[Any]:
        """A method of the manager."""
        return await self._call(NAME, PATH, MANAGER, member, signature, *body)

    async def state(self, unit: str) -> dict[str, str]:
        """ActiveState, SubState, Result and the like of a unit that is loaded."""
        (path,) = await self.ask("LoadUnit", "s", unit)
        (found,) = await self._call(NAME, path, "org.freedesktop.DBus.Properties", "GetAll", "s", f"{NAME}.Unit")
        return {name: str(value.value) for name, value in found.items()}

    async def job(self, member: str, unit: str) -> str:
        """Starts or stops the unit; the result of the job when it is over."""
        (job,) = await self.ask(member, "ss", unit, "replace")
        if job in self._early:
            return self._early[job]
        ended = self._removed[job] = asyncio.get_running_loop().create_future()
        try:
            return await ended
        except asyncio.CancelledError:  # our time is over: what systemd still does, it shall not go on doing for us
            with contextlib.suppress(Exception):
                await self.ask("CancelJob", "u", int(job.rpartition("/")[2]))
            raise


class Refused(Exception):
    """systemd said no. The D-Bus error's name, and its text."""

    def __init__(self, name: str, text: str) -> None:
        super().__init__(f"{text} ({name})")
        self.name = name


async def hook(context: Any) -> bool:
    unit = context.parameters.unit
    stopping = context.phase == "PreRel"
    what = "stop" if stopping else "start"
    try:
        async with Systemd(context.parameters.bus) as systemd:
            loaded = (await systemd.state(unit)).get("LoadState")
            if loaded != "loaded":
                print(f"{unit} is {loaded} here: install what has it, or mend its name")
                return False
            result = await systemd.job("StopUnit" if stopping else "StartUnit", unit)
            if result not in ("done", "skipped" if stopping else "done"):
                print(f"{unit}: {what} failed: {result}; journalctl -u {unit} has more")
                return False
            state = (await systemd.state(unit)).get("ActiveState", "")
    except Refused as error:
        print(f"{unit}: {what} refused: {error}")
        return False
    except (OSError, ConnectionError, EOFError) as error:
        print(f"systemd cannot be reached on the system's bus: {error}")
        return False
    if not stopping and state == "failed":
        print(f"{unit}: was started, and has failed; journalctl -u {unit} has more")
        return False
    return True
