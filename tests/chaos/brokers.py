"""What happens to a broker. None keeps anything on disk: one that was killed has forgotten every retained message."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from random import Random

from tests.chaos.stage import Stage


@contextmanager
def killed(stage: Stage, broker: str, rng: Random) -> Iterator[str]:
    """SIGKILL, and started again at the end."""
    stage.kill_mosquitto(broker)
    try:
        yield ""
    finally:
        stage.start_mosquitto(broker)


@contextmanager
def all_killed(stage: Stage, broker: str, rng: Random) -> Iterator[str]:
    """All of them, or with one broker: that one."""
    for name in stage.brokers:
        stage.kill_mosquitto(name)
    try:
        yield f"{len(stage.brokers)} of {len(stage.brokers)}"
    finally:
        for name in stage.brokers:
            stage.start_mosquitto(name)


@contextmanager
def restarted(stage: Stage, broker: str, rng: Random) -> Iterator[str]:
    """SIGKILL, and started again at once."""
    stage.kill_mosquitto(broker)
    stage.start_mosquitto(broker)
    yield ""


@contextmanager
def stopped(stage: Stage, broker: str, rng: Random) -> Iterator[str]:
    """SIGSTOP, and SIGCONT: every connection stays up, and nothing is said."""
    stage.mosquittos[broker].send_signal(signal.SIGSTOP)
    try:
        yield ""
    finally:
        stage.mosquittos[broker].send_signal(signal.SIGCONT)
