"""What must be true in every world, looked at whenever it could become false.

1. One holder. At most one kernel has a service's address. Under `hold` only as long as the wire carries a probe: where
   it was not whole within the last windows, two are counted and not a failure. Two exceptions, which the page of
   guarantees names, both ended by the agent as soon as it runs: a host that was suspended wakes up with its address,
   and a pause falls between the agent's look at the clock and the call that it was for. And one that nothing ends: a
   kernel without an agent is later in removing an address than Linux ordinarily is, and the wire does not say so.
2. Epochs. Acquisitions of a service have epochs that only grow: none is used twice.
3. Hooks. Those of a service run in order, one at a time, and never on two nodes at once. Except what a node runs to
   clean up after its lease was lost, or cannot end because its agent stands still: the next holder does not wait for
   those. They carry their old epoch.
4. Roles. Every change is told by exactly one event, with its name, from where it was.
5. Loss. Who has lost a service and runs has no address of it a moment later, whatever its hooks do.
6. Turns. When a claim is granted, nobody else who runs is acquiring or active (under `hold`: while the wire is whole).
7. Ends. When all is calm, no takeover and no release is under way for longer than its hooks and retries take.
8. Liveness. When trouble ends, every service is held by one node, in good order, within `Shape.bound()` seconds.
"""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING, ClassVar

from locum.messages import Role
from locum.ports import DropNow, Emit, Input, Output, Run, Step

if TYPE_CHECKING:
    from tests.sim.agent import Agent
    from tests.sim.host import Host
    from tests.sim.world import World

ROLES = {role.value: role for role in Role}
LOST = ("lease", "superseded", "link", "wire", "address-gone")
"""Why a service is let go of without order."""
EXCUSED_SECONDS = 0.3
"""Within so long of running again an agent has removed what should have lapsed."""
KILLED_SECONDS = 0.1
"""Within so long of its lease's end the hooks of a takeover are dead."""


class Violation(AssertionError):
    """An invariant does not hold."""


class Referee:
    """Watches one world."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.epochs: dict[str, set[int]] = {name: {0} for name in world.holders}
        self.hooks: dict[str, list[tuple[Agent, Run]]] = {name: [] for name in world.holders}
        self.roles: dict[Agent, dict[str, Role]] = {}
        self.steps: dict[Agent, dict[str, Step | None]] = {}
        self.lost: set[tuple[Agent, str]] = set()
        """Who has let go of which service without order, and only cleans up."""
        self.excused: dict[str, int] = {}
        self.takeovers = 0
        self.gone_at: dict[tuple[str, int], float] = {}
        """When an address last went from a host."""
        self.taken_by = [0] * world.shape.nodes

    def fail(self, what: str) -> None:
        raise Violation(what)

    def object(self, kind: str, what: str) -> None:
        """A failure, except where only addresses are looked at."""
        if self.world.rules.only_addresses:
            self.excuse(kind)
        else:
            self.fail(what)

    def excuse(self, what: str) -> None:
        self.excused[what] = self.excused.get(what, 0) + 1
        if self.world.tracing:
            self.world.tell(f"excused: {what}")

    # -- one holder -------------------------------------------------------------------------------------------------

    def appeared(self, service: str, host: Host) -> None:
        world = self.world
        holders = world.holders[service]
        holders.append(host)
        if world.tracing:
            world.tell(f"{host.name} has the address of {service} (holders: {[one.name for one in holders]})")
        if len(holders) > 1:
            self._two(service)

    def vanished(self, service: str, host: Host, why: str) -> None:
        self.world.holders[service].remove(host)
        self.gone_at[service, host.index] = self.world.t
        if self.world.tracing:
            self.world.tell(f"{host.name} has lost the address of {service}: {why}")

    def _two(self, service: str) -> None:
        world = self.world
        holders = world.holders[service]
        reasons = [host.kernel.has[service].excused for host in holders]
        if not world.wire.whole_for(1.0):
            late = [host.kernel.has[service].late_at < world.t for host in holders]
            reasons = [
                reason or ("a late kernel" if is_late else "") for reason, is_late in zip(reasons, late, strict=True)
            ]
        if sum(not reason for reason in reasons) <= 1:
            for host, reason in zip(holders, reasons, strict=True):
                if reason:
                    self.excuse(reason)
                    self._watch_excuse(host, service)
            return
        if any(host.asleep for host in holders):
            self.excuse("a suspended host")
            return
        window = world.shape.timing.window
        if world.shape.holds and not world.wire.whole_for(2 * window + 1.0):
            self.excuse("hold without a wire")
            return
        self.fail(f"two hosts have the address of {service}: {', '.join(host.name for host in holders)}")

    def _watch_excuse(self, host: Host, service: str) -> None:
        if host.agent is not None and host.agent.runs:
            self.world.at(self.world.t + EXCUSED_SECONDS, self._excuse_ends, host, (service, host.agent))

    def resumed(self, agent: Agent) -> None:
        for service, address in agent.host.kernel.has.items():
            if address.excused:
                self._watch_excuse(agent.host, service)

    def woke(self, host: Host) -> None:
        """A suspended host is awake, and its addresses with it."""
        for service in host.kernel.has:
            if len(self.world.holders[service]) > 1:
                self._two(service)

    def _excuse_ends(self, host: Host, which: tuple[str, Agent]) -> None:
        service, agent = which
        world = self.world
        address = host.kernel.has.get(service)
        if address is None or not address.excused or len(world.holders[service]) < 2:
            return
        if agent is not host.agent or agent.dead or not agent.runs or world.t - agent.ran_since < EXCUSED_SECONDS:
            return
        if world.t < host.netlink_fails_until or world.t < host.netlink_slow_until + 1.0:
            return
        self.fail(f"{host.name} runs again and still has the address of {service} ({address.excused})")

    # -- roles, steps, epochs -----------------------------------------------------------------------------------------

    def born(self, agent: Agent) -> None:
        self.roles[agent] = {name: duty.role for name, duty in agent.core.duties.items()}
        self.steps[agent] = dict.fromkeys(agent.core.duties)

    def died(self, agent: Agent) -> None:
        self.roles.pop(agent, None)
        self.steps.pop(agent, None)
        self.lost = {(other, service) for other, service in self.lost if other is not agent}
        for running in self.hooks.values():
            running[:] = [(other, run) for other, run in running if other is not agent]

    def stepped(self, agent: Agent, event: Input, outputs: list[Output]) -> None:
        roles = self.roles[agent]
        for output in outputs:
            if output.__class__ is Emit and output.type in ROLES:
                self._role(agent, roles, output)
            elif output.__class__ is Run:
                self._step(agent, output)
            elif output.__class__ is DropNow:
                self._loses(agent, output.service)
        for name, duty in agent.core.duties.items():
            if duty.role is not roles[name]:
                self.fail(f"{agent.name} is {duty.role} in {name}, and no event told of it (last: {roles[name]})")
        if self.world.tracing and outputs:
            self.world.tell_step(agent, event, outputs)

    def _role(self, agent: Agent, roles: dict[str, Role], told: Emit) -> None:
        service, role = told.subject, ROLES[told.type]
        if told.data["from"] != roles[service].value or role is roles[service]:
            self.fail(f"{agent.name} tells of {told.data['from']} to {role.value}, but was {roles[service].value}")
        roles[service] = role
        if role is Role.RELEASING and told.data["reason"] in LOST:
            self._loses(agent, service)
            if told.data["reason"] == "superseded":
                lease = agent.core.duties[service].lease
                if lease.ends_at() > agent.host.now():
                    self.excuse("a holder deposed while its lease was good")
        elif role is Role.CLAIMING:
            self.lost.discard((agent, service))
        if role is Role.ACQUIRING:
            hand = agent.core.duties[service].hand
            if hand.paused and hand.keeper != agent.name:
                self.fail(f"{agent.name} acquires {service}, which is paused for {hand.keeper}")
            if self.world.shape.beside == "apart" and sum(duty.holds for duty in agent.core.duties.values()) > 1:
                self.fail(f"{agent.name} acquires {service}, and has the one from which it must be apart")
            epoch = told.data["epoch"]
            used = self.epochs[service]
            if epoch <= max(used):
                if epoch in used or not agent.late:
                    self.object(
                        "an epoch out of order",
                        f"{agent.name} acquires {service} with epoch {epoch}; {max(used)} was used before",
                    )
                else:
                    self.excuse("a claim granted by an old look at the clock")
            else:
                self._others_let_go(agent, service)
            used.add(epoch)
            self.takeovers += 1
            self.taken_by[agent.host.index] += 1
        if self.world.armed:
            self.world.trouble.anchor(role.value, agent)

    def _loses(self, agent: Agent, service: str) -> None:
        self.lost.add((agent, service))
        if service in agent.host.kernel.has:
            self.world.at(self.world.t + EXCUSED_SECONDS, self._must_be_gone, agent, service)

    def _must_be_gone(self, agent: Agent, service: str) -> None:
        host, world = agent.host, self.world
        if (agent, service) not in self.lost or service not in host.kernel.has or not agent.runs:
            return
        if world.t - agent.ran_since > EXCUSED_SECONDS and world.t > host.netlink_doubted_until:
            self.fail(f"{agent.name} has lost {service}, runs, and still has its address")

    def _others_let_go(self, agent: Agent, service: str) -> None:
        """Nobody who runs still holds what another has been granted."""
        world = self.world
        for host in world.hosts:
            other = host.agent
            if other is None or other is agent or not other.awake or world.t - other.ran_since < EXCUSED_SECONDS:
                continue
            if other.stopped or other.core.duties[service].role not in (Role.ACQUIRING, Role.ACTIVE):
                continue
            if world.shape.holds and not world.wire.whole_for(2 * world.shape.timing.window + 1.0):
                self.excuse("hold without a wire")
                continue
            learns = self.gone_at.get((service, host.index), -inf) + 2 * world.shape.beat + 1.0
            missing = world.shape.holds and service not in host.kernel.has
            if missing and world.t < max(learns, host.netlink_doubted_until):
                self.excuse("a holder that has yet to learn that its address is gone")
                continue
            self.object(
                "granted to two",
                f"{agent.name} acquires {service}, but {host.name} is {other.core.duties[service].role.value}",
            )

    NEXT: ClassVar[dict[Step | None, tuple[Step, ...]]] = {
        None: (Step.TEST, Step.PRE_REL, Step.DROP),
        Step.TEST: (Step.PRE_ACQ, Step.PRE_REL, Step.DROP, Step.TEST),
        Step.PRE_ACQ: (Step.TAKE, Step.PRE_REL, Step.DROP),
        Step.TAKE: (Step.POST_ACQ, Step.PRE_REL, Step.DROP),
        Step.POST_ACQ: (Step.TEST, Step.PRE_REL, Step.DROP),
        Step.PRE_REL: (Step.DROP, Step.POST_REL, Step.POST_ACQ),
        Step.DROP: (Step.DROP, Step.PRE_REL, Step.POST_REL),
        Step.POST_REL: (Step.TEST,),
    }

    def _step(self, agent: Agent, run: Run) -> None:
        last = self.steps[agent][run.service]
        if run.step is Step.TAKE and agent.core.duties[run.service].found:
            self.steps[agent][run.service] = Step.POST_ACQ  # it was left here, and its hooks ran before that
            return
        if run.step not in self.NEXT[last]:
            self.fail(f"{agent.name} runs {run.step.value} of {run.service} after {last}")
        self.steps[agent][run.service] = run.step
        if run.epoch != agent.core.duties[run.service].lease.epoch:
            self.fail(f"{agent.name} runs {run.step.value} with epoch {run.epoch}")

    # -- hooks ---------------------------------------------------------------------------------------------------------

    def hook_begins(self, agent: Agent, run: Run) -> None:
        running = self.hooks[run.service]
        for other, theirs in running:
            if other is agent:
                self.fail(f"{agent.name} runs {run.step.value} of {run.service} while its {theirs.step.value} runs")
            self._overlap(run.service, (other, theirs), (agent, run))
        running.append((agent, run))
        if self.world.tracing:
            self.world.tell(f"{agent.name} {run.service} hook {run.step.value} begins (epoch {run.epoch})")

    def hook_ends(self, agent: Agent, run: Run) -> None:
        running = self.hooks[run.service]
        running[:] = [(other, theirs) for other, theirs in running if other is not agent]

    def _overlap(self, service: str, *two: tuple[Agent, Run]) -> None:
        for agent, run in two:
            over_since = self._over_since(agent, service)
            if over_since is None:
                continue
            cleaning = run.step in (Step.PRE_REL, Step.POST_REL)
            if cleaning or not agent.awake or self.world.t - agent.ran_since < 1.0 or over_since < KILLED_SECONDS:
                self.excuse("hooks of a lost lease" if cleaning else "hooks of an agent that stood still")
                return
        if self.world.shape.holds and not self.world.wire.whole_for(2 * self.world.shape.timing.window + 1.0):
            self.excuse("hooks under hold without a wire")
            return
        (one, first), (other, second) = two
        self.object(
            "hooks on two nodes",
            f"hooks of {service} overlap: {one.name} {first.step.value}, {other.name} {second.step.value}",
        )

    def _over_since(self, agent: Agent, service: str) -> float | None:
        """For how long the agent's lease has been over, by its own clock; None if it is not."""
        core = agent.core
        duty = core.duties[service]
        if (agent, service) in self.lost or duty.lease.superseded():
            return 0.0
        base = duty.lease.confirmed_at()
        if core.config.holds and duty.has_address:
            base = max(base, core._echo_at)
        over = agent.host.now() - (base + core.timing.lease)
        return over if over >= 0 else None

    # -- calm ----------------------------------------------------------------------------------------------------------

    def unsettled(self) -> str:
        """What is still missing for every service to be held in good order; empty if nothing is."""
        world = self.world
        for service, holders in world.holders.items():
            active = []
            for host in world.hosts:
                agent = host.agent
                if agent is None or not agent.awake or agent.stopped:
                    return f"{host.name} has no running agent"
                duty = agent.core.duties[service]
                if duty.role is Role.ACTIVE and duty.step is None:
                    active.append(host)
                elif duty.role is not Role.STANDBY:
                    return f"{host.name} is {duty.role.value} in {service} ({duty.step})"
            if len(active) != 1 or holders != active:
                return f"{service} is active on {[h.name for h in active]}, its address on {[h.name for h in holders]}"
        if world.shape.beside:
            first, second = list(world.holders.values())[:2]
            if (first == second) is not (world.shape.beside == "together"):
                return f"the services must be {world.shape.beside}: {first[0].name} and {second[0].name} have them"
        return ""
