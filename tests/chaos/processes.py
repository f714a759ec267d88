"""What happens to an agent's process. Each fault is a context manager: it begins, and undoes itself at the end."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from random import Random

from tests.chaos.stage import Stage


@contextmanager
def killed(stage: Stage, node: str, rng: Random) -> Iterator[str]:
    """SIGKILL, and started again."""
    stage.down_by_us.add(node)
    stage.agents[node].kill()
    stage.agents[node].wait()
    try:
        yield ""
    finally:
        stage.start(node)


@contextmanager
def ended(stage: Stage, node: str, rng: Random) -> Iterator[str]:
    """SIGTERM, and started again."""
    stage.down_by_us.add(node)
    stage.agents[node].terminate()
    try:
        yield ""
    finally:
        try:
            stage.agents[node].wait(5)
        except subprocess.TimeoutExpired:
            stage.agents[node].kill()
            stage.agents[node].wait()
        stage.start(node)


@contextmanager
def stopped(stage: Stage, node: str, rng: Random) -> Iterator[str]:
    """SIGSTOP, and SIGCONT."""
    stage.agents[node].send_signal(signal.SIGSTOP)
    try:
        yield ""
    finally:
        stage.agents[node].send_signal(signal.SIGCONT)


@contextmanager
def rationed(stage: Stage, node: str, rng: Random) -> Iterator[str]:
    """It gets a slice of time, then none for longer, again and again."""
    runs, rests = rng.uniform(0.01, 0.05), rng.uniform(0.1, 0.8)
    agent = stage.agents[node]
    over = threading.Event()

    def ration() -> None:
        while not over.is_set():
            agent.send_signal(signal.SIGSTOP)
            over.wait(rests)
            agent.send_signal(signal.SIGCONT)
            over.wait(runs)

    thread = threading.Thread(target=ration, daemon=True)
    thread.start()
    try:
        yield f"{runs * 1000:.0f} ms of every {(runs + rests) * 1000:.0f} ms"
    finally:
        over.set()
        thread.join()
        agent.send_signal(signal.SIGCONT)


@contextmanager
def crowded_out(stage: Stage, node: str, rng: Random) -> Iterator[str]:
    """The agent may run only when nobody else wants its processor (SCHED_IDLE), and somebody does all the time."""
    processor = rng.choice(sorted(os.sched_getaffinity(0)))
    everywhere = os.sched_getaffinity(0)
    burn = f"import os,time; os.nice(19); os.sched_setaffinity(0, {{{processor}}}); end = time.monotonic() + 30\n"
    burn += "while time.monotonic() < end: pass"
    burners = [subprocess.Popen([sys.executable, "-c", burn]) for _ in range(2)]
    _schedule(stage.agents[node].pid, os.SCHED_IDLE, {processor})
    try:
        yield f"SCHED_IDLE beside {len(burners)} that never rest"
    finally:
        _schedule(stage.agents[node].pid, os.SCHED_OTHER, everywhere)
        for burner in burners:
            burner.kill()
            burner.wait()


def _schedule(pid: int, policy: int, processors: set[int]) -> None:
    """All threads of a process."""
    with suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            with suppress(OSError):
                os.sched_setscheduler(int(task.name), policy, os.sched_param(0))
                os.sched_setaffinity(int(task.name), processors)
