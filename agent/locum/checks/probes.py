"""How each kind of check asks, once. Every one of them answers "" if all is well, else why not, in one line.

None of them blocks the event loop: what may wait for a disk is done aside, programs are processes of their own.
"""

import asyncio
import contextlib
import os
import ssl
import subprocess
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from locum import echo
from locum.address import look
from locum.aside import Desk, aside
from locum.config import CheckSection
from locum.hooks.text import one_line

BODY_MOST = 1_048_576
"""Bytes of an answer that are looked through for a text."""
OUTPUT_MOST = 4_096

Probe = Callable[[], Awaitable[str]]


def probe_of(check: CheckSection, run: Callable[[], Awaitable[str]]) -> Probe:
    """What to call for one round of the check. `run`: for kinds that are programs (command, ocf)."""
    desk = Desk()
    match check.kind:
        case "icmp":
            return lambda: _icmp(check)
        case "tcp":
            return lambda: _tcp(check)
        case "http":
            return Http(check, desk).ask
        case "systemd":
            return lambda: _systemd(check)
        case "process":
            return lambda: aside(lambda: _process(str(check.process)), timeout=check.timeout, desk=desk)
        case "interface":
            return lambda: aside(lambda: _interface(str(check.interface)), timeout=check.timeout, desk=desk)
        case "file":
            return lambda: aside(lambda: _file(check), timeout=check.timeout, desk=desk)
        case _:
            return run


async def _icmp(check: CheckSection) -> str:
    assert check.icmp is not None
    answered = await echo.first_answer([check.icmp], check.timeout)
    return "" if answered else f"{check.icmp} does not answer an echo within {check.timeout:g} s"


async def _tcp(check: CheckSection) -> str:
    assert check.tcp is not None
    host, _, port = check.tcp.rpartition(":")
    try:
        async with asyncio.timeout(check.timeout):
            _, writer = await asyncio.open_connection(host.strip("[]"), int(port))
    except TimeoutError:
        return f"{check.tcp} does not accept a connection within {check.timeout:g} s"
    except OSError as error:
        return f"{check.tcp}: {error.strerror or error}"
    writer.transport.abort()  # at once, and nothing is left in TIME_WAIT at either end
    return ""


class Http:
    """Asks for a page, over a new connection each time: what a new client would meet."""

    def __init__(self, check: CheckSection, desk: Desk) -> None:
        self._check, self._desk = check, desk
        self._trust: ssl.SSLContext | bool | None = None

    async def ask(self) -> str:
        # Imported only where it is used: 10 MB that an agent without such a check need not carry.
        import httpx

        check = self._check
        assert check.http is not None
        trust = self._trust
        if trust is None:
            trust = False
            if check.http.startswith("https") and check.verify:
                # Reading the system's certificates takes 20 ms: aside, and once.
                trust = await aside(ssl.create_default_context, timeout=check.timeout, desk=self._desk)
            self._trust = trust
        try:
            async with (
                asyncio.timeout(check.timeout),
                httpx.AsyncClient(verify=trust, trust_env=False, timeout=None) as client,
                client.stream("GET", check.http, headers={"User-Agent": "locum", "Connection": "close"}) as answer,
            ):
                if answer.status_code not in check.status:
                    return f"{check.http} answers {answer.status_code}"
                return await self._body(answer) if check.text else ""
        except TimeoutError:
            return f"{check.http} does not answer within {check.timeout:g} s"
        except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
            return f"{check.http}: {str(error) or type(error).__name__}"

    async def _body(self, answer: Any) -> str:
        body = b""
        async for chunk in answer.aiter_bytes():
            body += chunk
            if self._check.text.encode() in body:
                return ""
            if len(body) > BODY_MOST:
                break
        return f"{self._check.http} answers without {self._check.text!r}"


async def _systemd(check: CheckSection) -> str:
    assert check.systemd is not None
    try:
        asked = await asyncio.create_subprocess_exec(
            "systemctl", "is-active", check.systemd, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
    except OSError as error:
        return f"systemctl: {error.strerror}"
    try:
        async with asyncio.timeout(check.timeout):
            out, _ = await asked.communicate()
    except TimeoutError:
        return f"systemd does not say within {check.timeout:g} s what {check.systemd} is"
    finally:
        if asked.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                asked.kill()
    said = one_line(out.decode(errors="replace").strip(), most=60)
    return "" if asked.returncode == 0 else f"{check.systemd} is {said or 'unknown'}"


def _process(name: str) -> str:
    wanted = name.encode()
    for entry in os.scandir("/proc"):
        if entry.name.isdigit():
            with contextlib.suppress(OSError):  # it has ended meanwhile
                if Path(entry.path, "comm").read_bytes().rstrip(b"\n") == wanted:
                    return ""
    return f"no process is called {name}"


def _interface(name: str) -> str:
    link = look.link(name)
    if not link.exists:
        return f"interface {name} does not exist"
    return "" if link.carrier else f"interface {name} is down or has no carrier"


def _file(check: CheckSection) -> str:
    assert check.file is not None
    there = check.file.exists()
    if there and check.absent:
        return f"{check.file} is there"
    return "" if there or check.absent else f"{check.file} is not there"
