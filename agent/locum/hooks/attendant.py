"""Runs the hooks of this node's services when the agent says so, and tells how far they are.

- The hooks of a phase run one after the other (`phase`), and their results are events.
- Hooks for which nobody waits (BESIDE, in ready.py) run beside, a bounded number of them; the agent's end waits for
  them a little.
- Hooks with the phase Standby run from time to time while another node holds the service. They end when that node is
  no longer heard to hold it, and before this node's own takeover begins.
"""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from random import uniform
from typing import Any

from locum import clock
from locum.aside import Desk
from locum.config import CheckSection, Config
from locum.hooks.context import HookContext, Phase
from locum.hooks.folder import Hook, Kind, look
from locum.hooks.ready import Declared, declared
from locum.hooks.runner import HookResult, run_phase
from locum.hooks.text import one_line
from locum.messages import HookRunning
from locum.ports import Run

log = logging.getLogger(__name__)

BESIDE_MOST = 32
"""Hooks that run beside, for which nobody waits."""
CLOSE_SECONDS = 10.0
"""For how long the agent's end waits for them."""
LONG_SECONDS = 1.0
"""A hook that has run for so long is told of in the node's state."""
TELL_SECONDS = 2.0
FOLLOW_SECONDS = 0.25
"""How often a hook of the phase Standby looks whether it still may run."""
RETRY_SECONDS = 60.0
"""After a failure it runs again no later than that."""
DETAIL_MOST = 1_000


@dataclass(frozen=True, slots=True)
class _Running:
    service: str
    phase: Phase
    hook: str
    since: float


@dataclass(frozen=True, slots=True)
class _Told:
    """What all hooks of a phase are told."""

    service: str
    epoch: int
    peer: str
    reason: str


class Attendant:
    """All hooks of one node. `close` it at the end.

    `tell(service, type, data)` publishes an event; `on_progress()` is called when `running()` has something new to say;
    `unheard(service)` and `followed(service)` are the coordinator's.
    """

    def __init__(
        self,
        config: Config,
        node: str,
        *,
        tell: Callable[[str, str, dict[str, Any]], None],
        on_progress: Callable[[], None],
        unheard: Callable[[str], tuple[str, ...]],
        followed: Callable[[str], str],
    ) -> None:
        self._node = node
        self._know(config)
        self._tell = tell
        self._on_progress = on_progress
        self._unheard = unheard
        self._followed = followed
        self._running: dict[object, _Running] = {}
        self._progress: asyncio.Task[None] | None = None
        self._desks: dict[tuple[str, str], Desk] = {}
        self._beside: set[asyncio.Task[bool]] = set()
        self._standby: dict[tuple[str, str], asyncio.Task[bool]] = {}
        self._loops: dict[tuple[str, Declared], asyncio.Task[None]] = {}

    def _know(self, config: Config) -> None:
        self._services = config.services_of(self._node)
        self._hosts = {
            name: tuple(f"{other}={config.nodes[other].address}" for other in service.nodes)
            for name, service in self._services.items()
        }
        self._declared = {name: declared(service) for name, service in self._services.items()}

    def start(self) -> None:
        """Begins what is to be done while standing by, and ends what is not to be done any more."""
        wanted = {
            (service, hook)
            for service, hooks in self._declared.items()
            for hook in hooks
            if Phase.Standby in hook.phases and hook.every > 0
        }
        for which in self._loops.keys() - wanted:
            self._loops.pop(which).cancel()
        for service, hook in wanted - self._loops.keys():
            self._loops[service, hook] = asyncio.get_running_loop().create_task(self._stand_by(service, hook))

    def adopt(self, config: Config) -> None:
        """Goes on with the hooks of another configuration."""
        self._know(config)
        self.start()

    async def close(self) -> None:
        """Ends what runs while standing by, at once, and waits for what runs beside, for CLOSE_SECONDS."""
        ending = [*self._loops.values(), *self._standby.values()]
        for task in ending:
            task.cancel()
        await asyncio.gather(*ending, return_exceptions=True)
        if self._beside:
            await asyncio.wait(self._beside, timeout=CLOSE_SECONDS)
        for task in self._beside:
            task.cancel()
        await asyncio.gather(*self._beside, return_exceptions=True)
        if self._progress is not None:
            self._progress.cancel()

    def running(self) -> list[HookRunning]:
        """The hooks that have been running for LONG_SECONDS."""
        now = clock.now()
        return [
            HookRunning(
                service=one.service, phase=one.phase.value, hook=one_line(one.hook), seconds=round(now - one.since, 1)
            )
            for one in self._running.values()
            if now - one.since >= LONG_SECONDS
        ]

    async def phase(self, run: Run) -> tuple[bool, str]:
        """Runs the hooks of a step that is a phase: whether all succeeded, and what those that did not say."""
        phase = Phase(run.step.value)
        service = self._services[run.service]
        if phase is Phase.PreAcq:
            await self._end_standby(run.service)
        addresses = tuple(str(address) for address in service.addresses)
        found = await look(service.hooks_dir, run.service, addresses, phase, self._declared[run.service])
        for problem in found.problems:
            log.warning("%s: %s", run.service, problem.text)
        if not found.hooks:
            return True, ""
        ok, detail = await self._run(
            found.hooks,
            phase,
            _Told(run.service, run.epoch, run.peer, run.reason),
            stop_at_first_failure=not run.forced and phase not in (Phase.PostAcq, Phase.PostRel),
        )
        return ok, detail

    async def check(self, service: str, name: str, section: CheckSection) -> str:
        """Runs a check that is a program, or the monitor of a hook: "" if it succeeds, else why not."""
        address = str(self._services[service].addresses[0])
        if section.ocf is not None:
            declared = next(hook for hook in self._declared[service] if hook.name == section.ocf)
            declared = replace(declared, timeout=section.timeout)
            hook = Hook(declared.path, Phase.Check, address, Kind.ready, declared=declared)
        else:
            assert section.command is not None
            hook = Hook(section.command, Phase.Check, address)
        told = _Told(service, 0, "", "check")
        outcome = await run_phase(
            [hook],
            lambda hook: self._context(hook, told),
            timeout=section.timeout,
            on_line=lambda hook, line: None,  # the last one is in the result
            on_result=lambda result: None,
            stop_at_first_failure=True,
            desk=self._desks.setdefault((service, name), Desk()),
        )
        return "" if outcome.ok else "; ".join(result.detail for result in outcome.failed)

    def _context(self, hook: Hook, told: _Told) -> HookContext:
        service = self._services[told.service]
        return HookContext(
            phase=hook.phase,
            service=told.service,
            address=hook.address,
            addresses=tuple(str(address) for address in service.addresses),
            interface=service.interface,
            node=self._node,
            peer=told.peer,
            epoch=told.epoch,
            reason=told.reason,
            unheard=self._unheard(told.service),
            hosts=self._hosts[told.service],
        )

    async def _run(
        self, hooks: list[Hook], phase: Phase, told: _Told, *, stop_at_first_failure: bool, wait: bool = False
    ) -> tuple[bool, str]:
        """`wait`: also for those for which nobody waits."""
        service = self._services[told.service]
        key = object()

        def began(hook: Hook) -> None:
            self._running[key] = _Running(told.service, phase, hook.name, clock.now())
            if self._progress is None or self._progress.done():
                self._progress = asyncio.get_running_loop().create_task(self._tell_progress())

        def ended(result: HookResult) -> None:
            data = asdict(result)
            del data["title"]
            data |= {"path": one_line(result.path), "phase": phase.value, "seconds": round(result.seconds, 3)}
            self._tell(told.service, "hook", data | {"epoch": told.epoch})

        try:
            outcome = await run_phase(
                hooks,
                lambda hook: self._context(hook, told),
                timeout=service.hook_timeout,
                on_start=began,
                on_line=lambda hook, line: log.info("%s %s %s: %s", told.service, phase.value, hook.name, line),
                on_result=ended,
                stop_at_first_failure=stop_at_first_failure,
                beside=None if wait else lambda hook: self._run_beside(hook, phase, told),
            )
        finally:
            self._running.pop(key, None)
        return outcome.ok, "; ".join(result.line for result in outcome.failed)

    def _run_beside(self, hook: Hook, phase: Phase, told: _Told) -> None:
        if len(self._beside) >= BESIDE_MOST:
            why = f"not run: {BESIDE_MOST} hooks for which nobody waits are running already"
            log.error("%s %s %s: %s", told.service, phase.value, hook.name, why)
            self._tell(
                told.service, "failed", {"step": phase.value, "epoch": told.epoch, "why": f"{hook.title}: {why}"}
            )
            return
        task = asyncio.get_running_loop().create_task(self._run_alone(hook, phase, told))
        self._beside.add(task)
        task.add_done_callback(self._beside.discard)

    async def _run_alone(self, hook: Hook, phase: Phase, told: _Told) -> bool:
        try:
            ok, detail = await self._run([hook], phase, told, stop_at_first_failure=True, wait=True)
        except Exception as error:  # nobody else would hear of it
            log.exception("%s %s %s", told.service, phase.value, hook.name)
            ok, detail = False, f"{type(error).__name__}: {error}"
        if not ok:
            self._tell(told.service, "failed", {"step": phase.value, "epoch": told.epoch, "why": detail[:DETAIL_MOST]})
        return ok

    async def _tell_progress(self) -> None:
        """While hooks run: the node's state says so, from LONG_SECONDS on, and once more when they have ended."""
        told = False
        await asyncio.sleep(LONG_SECONDS)
        while self._running or told:
            running = bool(self.running())
            if running or told:
                self._on_progress()
            told = running
            await asyncio.sleep(TELL_SECONDS if running else LONG_SECONDS / 4)

    # -- while another node holds the service -------------------------------------------------------------------------

    async def _stand_by(self, service: str, hook: Declared) -> None:
        """Runs the hook at its interval, while somebody is followed. The first run comes soon after the start."""
        addresses = [str(address) for address in self._services[service].addresses]
        due = clock.now() + uniform(1.0, 2.0) * LONG_SECONDS
        while True:
            await asyncio.sleep(max(FOLLOW_SECONDS, min(due - clock.now(), RETRY_SECONDS)))
            holder = self._followed(service)
            if not holder or clock.now() < due:
                continue
            run = Hook(hook.path, Phase.Standby, addresses[0], Kind.ready, declared=hook)
            told = _Told(service, 0, holder, "standby")
            task = asyncio.get_running_loop().create_task(self._run_alone(run, Phase.Standby, told))
            self._standby[service, hook.name] = task
            try:
                while not task.done():
                    if self._followed(service) != holder:
                        log.info("%s Standby %s: %s does not hold it any more: ended", service, hook.name, holder)
                        task.cancel()
                    await asyncio.wait((task,), timeout=FOLLOW_SECONDS)
            finally:
                del self._standby[service, hook.name]
                task.cancel()
            ok = not task.cancelled() and task.result()
            # Spread a little, so that nodes do not all come at once.
            due = clock.now() + uniform(0.95, 1.05) * (hook.every if ok else min(hook.every, RETRY_SECONDS))

    async def _end_standby(self, service: str) -> None:
        """Before a takeover: what runs for standing by must have ended."""
        running = [task for (name, _), task in self._standby.items() if name == service]
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
