"""A model of the agent's kernel thread (`locum/address/kernel.py`): one request after the other, each with a look at
the clock before and after.

In the quiet case a request is done in no time. A trap or a slow kernel takes it apart into look, call and look, and a
pause of the process may come between any two of them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from math import inf
from typing import TYPE_CHECKING

from locum.address.kernel import CALL_SECONDS, REQUEST_SECONDS
from locum.address.lifetime import SLACK_SECONDS, kernel_seconds

if TYPE_CHECKING:
    from tests.sim.agent import Agent

HELD, GONE, LATE, ERROR = "held", "gone", "late", "error"
ANSWER_SECONDS = 0.0003
TRIES = 3

Answer = Callable[[str], None]


class Job:
    """One request: to set an address until a time, or (until infinity) to remove it."""

    __slots__ = ("answer", "begun", "joined", "left", "only_if_present", "remove", "service", "tries", "until")

    def __init__(self, service: str, until: float, only_if_present: bool, answer: Answer | None) -> None:
        self.service = service
        self.until = until
        self.remove = until == inf
        self.only_if_present = only_if_present
        self.answer = answer
        self.left = False
        self.begun = False
        self.tries = 0
        self.joined: list[Job] = []
        """The same, asked for again while this one waited: what becomes of it becomes of them."""


class Netlink:
    """The queue, and the thread that works it off."""

    def __init__(self, agent: Agent) -> None:
        self.agent = agent
        self.host = agent.host
        self.world = agent.world
        self.rules = agent.world.rules
        self.queue: deque[Job] = deque()
        self.busy = False
        self.sure: dict[str, float] = {}
        """Before which time what was set last cannot have lapsed."""

    def ask(self, job: Job) -> None:
        if self.agent.dead:
            return
        latest = next((other for other in reversed(self.queue) if other.service == job.service), None)
        if latest is not None and (latest.remove, latest.only_if_present) == (job.remove, job.only_if_present):
            latest.joined.append(job)
            latest.until = max(latest.until, job.until)
        else:
            self.queue.append(job)
        assert len(self.queue) < 16, "the kernel's queue is bounded"
        if not self.busy and self.agent.runs:
            self.go_on()
        if not job.begun and not job.left and job.answer is not None:
            self.world.at(self.world.t + REQUEST_SECONDS, self._given_up, job)

    def _given_up(self, job: Job, _: object) -> None:
        if not job.left and not self.agent.dead:
            self._answer(job, ERROR)

    def go_on(self, *_: object) -> None:
        """Takes the next request; also after a pause."""
        while self.queue and not self.busy and self.agent.runs and not self.agent.dead:
            job = self.queue.popleft()
            job.begun = True
            left = job.left and all(other.left for other in job.joined)
            if not job.remove and (left or (self.rules.look_before and self.host.now() >= job.until)):
                self._finish(job, ERROR)
                continue
            host = self.host
            if host.trap in ("present", "look", "called") or self.world.t < host.netlink_slow_until or job.tries:
                self.busy = True
                self._look(job)
            else:
                self._at_once(job)

    def _at_once(self, job: Job) -> None:
        kernel, host = self.host.kernel, self.host
        if job.remove:
            if self.world.t < host.netlink_fails_until:
                self._finish(job, ERROR)
                return
            self._remove(job.service, "removed")
            self._finish(job, GONE)
            return
        if not host.exists or (job.only_if_present and job.service not in kernel.has):
            self._finish(job, GONE if job.only_if_present else ERROR)
            return
        now = host.now()
        seconds = self._seconds(job.until, now)
        if seconds == 0:
            self._finish(job, LATE)
        elif self.world.t < host.netlink_fails_until:
            self._finish(job, ERROR)
        else:
            kernel.set(job.service, seconds)
            if job.only_if_present and self._lapsed(job, now):
                self._remove(job.service, "may have lapsed")
                self._finish(job, GONE)
                return
            self.sure[job.service] = now + seconds
            if self.world.t < host.late_until:
                self.world.at(host.when(job.until), self._end_over, job)
            self._finish(job, HELD)

    def _seconds(self, until: float, now: float) -> int:
        if not self.rules.lifetimes:
            return -1
        if not self.rules.look_before:
            return int(self.world.shape.timing.window - SLACK_SECONDS)
        return kernel_seconds(until, now + CALL_SECONDS)

    def _lapsed(self, job: Job, after: float) -> bool:
        """Whether what was only to be prolonged may have lapsed, and been added anew."""
        return self.rules.sure and job.only_if_present and after >= self.sure.get(job.service, inf)

    def _remove(self, service: str, why: str) -> None:
        self.sure.pop(service, None)
        self.host.kernel.remove(service, why)

    def _end_over(self, job: Job, _: object = None) -> None:
        """The thread deletes what was not prolonged, where the kernel is late."""
        if self.agent.stands(self._end_over, job):
            return
        address = self.host.kernel.has.get(job.service)
        if address is not None and self.host.when(job.until) >= address.late_at and self.world.t >= address.late_at:
            self._remove(job.service, "over")

    # -- the same, taken apart ---------------------------------------------------------------------------------------

    def _look(self, job: Job, _: object = None) -> None:
        agent, host, kernel = self.agent, self.host, self.host.kernel
        if agent.stands(self._look, job):
            return
        if job.remove:
            self.world.at(self.world.t + host.call_seconds(), self._removed, job)
            return
        if not host.exists or (job.only_if_present and job.service not in kernel.has):
            self._over(job, GONE if job.only_if_present else ERROR)
            return
        if host.trap == "present":
            agent.sprung()
        self._set(job)

    def _set(self, job: Job, _: object = None) -> None:
        agent, host = self.agent, self.host
        if agent.stands(self._set, job):
            return
        before = host.now()
        seconds = self._seconds(job.until, before)
        if seconds == 0:
            if before >= job.until or job.tries:
                self._late(job)
            else:
                self._over(job, LATE)
            return
        job.tries += 1
        inside = host.coin()
        if host.trap == "look":
            agent.sprung()
        self.world.at(self.world.t + host.call_seconds(), self._called, job, (seconds, inside, before))

    def _called(self, job: Job, drawn: tuple[int, bool, float]) -> None:
        """The call takes effect. `inside`: the kernel had begun it, and a stopped process does not stop it."""
        seconds, inside, before = drawn
        agent, host = self.agent, self.host
        if not host.alive or (not inside and agent.stands(self._called, job, drawn)):
            return
        if agent.dead and host.agent is not None:
            return  # a process is not dead before its call has ended: its next life began after that
        if self.world.t >= host.netlink_fails_until and host.exists and not host.asleep:
            late = host.now() + seconds + SLACK_SECONDS > job.until or self._lapsed(job, host.now())
            host.kernel.set(job.service, seconds, "a pause before the call" if late else "")
        if host.trap == "called":
            agent.sprung()
        self._after(job, (seconds, before))

    def _after(self, job: Job, drawn: tuple[int, float]) -> None:
        agent, host = self.agent, self.host
        seconds, before = drawn
        if agent.stands(self._after, job, drawn):
            return
        after = host.now()
        if self.rules.look_after and after >= job.until:
            self._late(job)
        elif self._lapsed(job, after):
            self._late(job, GONE)
        elif self.world.t < host.netlink_fails_until:
            self._over(job, ERROR)
        elif after + seconds + SLACK_SECONDS <= job.until or not self.rules.look_after or seconds < 0:
            self.sure[job.service] = before + seconds
            self._over(job, HELD)
        elif job.tries < TRIES:
            self._look(job)
        else:
            self._late(job)

    def _late(self, job: Job, how: str = LATE) -> None:
        if self.world.t < self.host.netlink_fails_until:
            self._over(job, ERROR)
        else:
            self._remove(job.service, "late")
            self._over(job, how)

    def _removed(self, job: Job, _: object) -> None:
        if self.agent.stands(self._removed, job):
            return
        if self.world.t < self.host.netlink_fails_until:
            self._over(job, ERROR)
        else:
            self._remove(job.service, "removed")
            self._over(job, GONE)

    def _over(self, job: Job, how: str) -> None:
        self.busy = False
        address = self.host.kernel.has.get(job.service)
        if address is not None and how == HELD:
            address.excused = ""  # the thread has looked again, and found that it may stay
        self._finish(job, how)
        if self.queue:
            self.world.at(self.world.t + 0.0001, self.go_on)

    def _finish(self, job: Job, how: str) -> None:
        for one in (job, *job.joined):
            self._answer(one, how)

    def _answer(self, job: Job, how: str) -> None:
        if job.left:
            return
        job.left = True
        if job.answer is not None:
            self.world.at(self.world.t + ANSWER_SECONDS, self._answered, job, how)

    def _answered(self, job: Job, how: str) -> None:
        assert job.answer is not None
        self.agent.post(self.agent.inside, lambda *_: job.answer(how))  # type: ignore[misc]
