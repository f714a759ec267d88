"""`locum demo`: two hosts, a client and a broker on this machine, in namespaces that go when it ends."""

import sys

from locum.demo.broker import why_no_broker
from locum.demo.enter import CannotIsolate, ensure_isolated

INTERRUPTED = 130  # 128 + SIGINT, as a shell has it


def demo(fast: bool = False) -> int:
    """0 if everything happened as told, and no two hosts ever held the address at once; 1 if not."""
    if why := why_no_broker():
        print(f"locum demo: {why}", file=sys.stderr)
        return 1
    try:
        ensure_isolated([sys.executable, "-m", "locum", "demo", *(["--fast"] if fast else [])])
    except CannotIsolate as error:
        print(f"locum demo: {error}", file=sys.stderr)
        return 1
    try:
        return _play(fast)
    except KeyboardInterrupt:
        print("\nlocum demo: interrupted; nothing of it is left", file=sys.stderr)
        return INTERRUPTED


def _play(fast: bool) -> int:
    # Not before the isolation: the kernel makes no user namespace for a process with threads.
    from locum.demo import figures
    from locum.demo.lab import LabError
    from locum.demo.play import FAST, NORMAL, Play, StepFailed
    from locum.demo.screen import Screen
    from locum.demo.stage import ADDRESS, HOSTS, Stage, StageError

    screen = Screen()
    does = {
        "alpha": "runs the agent",
        "beta": "runs the agent",
        "broker": "runs amqtt, an MQTT broker",
        "client": f"asks {ADDRESS} for an echo every 2 ms, and listens to the bus",
    }
    screen.heading(
        f"Locum: alpha and beta stand in for each other at {ADDRESS}",
        [(name, address, does[name]) for name, address in HOSTS.items()],
        "Each is a network namespace, with a cable to one switch. A beat is sent every 500 ms, and a lease lasts 2 s. "
        "The first column counts seconds.",
    )
    try:
        with Stage() as stage:
            play = Play(stage, screen, FAST if fast else NORMAL)
            try:
                play.run()
            except StepFailed as failure:
                screen.say()
                screen.say(f"This did not happen as told: {failure}", "bold red")
                for line in stage.last_lines():
                    screen.say(line)
                figures.verdict(screen, stage.watch)
                return 1
            figures.show(screen, play.steps, stage.client.stop())
            return figures.verdict(screen, stage.watch)
    except (LabError, StageError) as error:
        print(f"locum demo: {error}", file=sys.stderr)
        return 1
    finally:
        screen.status("")
