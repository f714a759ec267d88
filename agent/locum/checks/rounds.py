"""Asks every check at its interval and tells when a verdict, or a node's fitness for a service, has changed.

- A service's checks do not wait for each other, nor does any of them ask again before its last question has ended.
- A check that is made only while the service is held says nothing before; when it has failed, it is held against the
  node for a while after the service has moved (Judge.rest_until), so that the service does not come back at once.
- The others must have been made once before a node claims: it is not fit without, from GRACE of a window on. Before
  that a node that has just started is given the benefit of the doubt: it claims nothing yet, and a `fault` that is
  over after one answer would only alarm.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from math import inf
from random import uniform
from typing import Any

from locum import clock
from locum.checks.judge import Judge
from locum.checks.probes import Probe, probe_of
from locum.config import CHECKS_SPREAD, CheckSection, Config
from locum.hooks.text import one_line
from locum.messages import CheckFailing, Role

log = logging.getLogger(__name__)

GRACE = 0.8
"""Of a window: less than what a node listens before its first claim."""

WHY_MOST = 300
"""Characters of why a check fails."""


@dataclass(slots=True)
class _Check:
    service: str
    name: str
    section: CheckSection
    probe: Probe
    judge: Judge
    doubted_from: float = 0.0
    """From then on an answer that never came counts."""

    def holds_against(self, now: float, active: bool) -> str:
        """Why the node is not fit by this check; "" if it is."""
        if self.section.only_active and not active:
            if now < self.judge.rest_until():
                return f"{self.name}: {self.judge.why}"
            self.judge.forget()
            return ""
        if self.judge.good is None:
            return "" if self.section.only_active or now < self.doubted_from else f"{self.name}: not made yet"
        return "" if self.judge.good else f"{self.name}: {self.judge.why}"


@dataclass(slots=True)
class _Verdict:
    fit: bool = True
    why: str = ""
    checks: list[_Check] = field(default_factory=list)


class Checks:
    """All checks of one node. `start` it once, `close` it at the end.

    `role(service)`: this node's. `on_fitness(service, fit, why)` is called when that has changed, `tell(service, type,
    data)` publishes an event, `on_failing()` is called when `failing()` has changed. `run(service, name, check)`
    runs a check that is a program.
    """

    def __init__(
        self,
        config: Config,
        node: str,
        *,
        role: Callable[[str], Role],
        on_fitness: Callable[[str, bool, str], None],
        tell: Callable[[str, str, dict[str, Any]], None],
        on_failing: Callable[[], None],
        run: Callable[[str, str, CheckSection], Awaitable[str]],
    ) -> None:
        self._role, self._on_fitness, self._tell, self._on_failing = role, on_fitness, tell, on_failing
        self._grace = GRACE * config.durations().window
        self._services: dict[str, _Verdict] = {}
        self._tasks: list[asyncio.Task[None]] = []
        for service, section in config.services_of(node).items():
            if section.checks:
                self._services[service] = _Verdict(checks=[_make(service, *one, run) for one in section.checks.items()])

    def inherit(self, old: "Checks") -> None:
        """What is known of checks that have not changed."""
        known = {(check.service, check.name): check for verdict in old._services.values() for check in verdict.checks}
        for service, verdict in self._services.items():
            for check in verdict.checks:
                before = known.get((service, check.name))
                if before is not None and before.section == check.section:
                    check.judge, check.probe = before.judge, before.probe

    def start(self, fit: Mapping[str, bool]) -> None:
        """Begins. `fit`: for each service, what was last said of it by `on_fitness`; true in the beginning."""
        loop = asyncio.get_running_loop()
        for service, verdict in self._services.items():
            verdict.fit = fit.get(service, True)
            for check in verdict.checks:
                check.doubted_from = clock.now() + self._grace if verdict.fit else -inf
                self._tasks.append(loop.create_task(self._go_round(check)))
            self._tasks.append(loop.create_task(self._doubt(service)))

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def failing(self) -> list[CheckFailing]:
        """The checks that are bad now."""
        return [
            CheckFailing(service=service, check=check.name, why=check.judge.why)
            for service, verdict in self._services.items()
            for check in verdict.checks
            if check.judge.good is False
        ]

    async def _go_round(self, check: _Check) -> None:
        section, judge = check.section, check.judge
        was_active = False
        while True:
            started_at = clock.now()
            active = self._role(check.service) is Role.ACTIVE
            if not section.only_active or (active and was_active):
                await self._ask(check, judge)
            else:
                self._weigh(check.service)  # what was held against the node may be over
            was_active = active
            spread = uniform(1 - CHECKS_SPREAD, 1 + CHECKS_SPREAD)
            rest = section.interval * spread - (clock.now() - started_at)
            await asyncio.sleep(max(rest, section.interval / 10))

    async def _doubt(self, service: str) -> None:
        await asyncio.sleep(self._grace + 0.05)  # a little after, not before
        self._weigh(service)

    async def _ask(self, check: _Check, judge: Judge) -> None:
        try:
            why = await check.probe()
        except Exception as error:  # of a library: a failed check, whatever it is
            why = f"{type(error).__name__}: {error}"
        why = one_line(why, most=WHY_MOST)
        first = judge.good is None
        if judge.hear(clock.now(), not why, why):
            if not (first and judge.good):  # that all is well at the start is not worth an event
                self._tell(check.service, "check", {"check": check.name, "ok": judge.good, "why": why})
            self._on_failing()
        self._weigh(check.service)

    def _weigh(self, service: str) -> None:
        verdict = self._services[service]
        now, active = clock.now(), self._role(service) is Role.ACTIVE
        against = [why for check in verdict.checks if (why := check.holds_against(now, active))]
        fit, why = not against, one_line("; ".join(against), most=WHY_MOST)
        if fit is not verdict.fit:
            verdict.fit, verdict.why = fit, why
            self._on_fitness(service, fit, why)


def _make(
    service: str, name: str, section: CheckSection, run: Callable[[str, str, CheckSection], Awaitable[str]]
) -> _Check:
    probe = probe_of(section, lambda: run(service, name, section))
    return _Check(service, name, section, probe, Judge(section.rise, section.fall))
