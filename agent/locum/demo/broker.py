"""A broker in Python: amqtt as a process of its own, where nothing but pip has to install one.

    python -m locum.demo.broker 0.0.0.0:1883

Anybody may connect, nothing is kept on disk. That is right in a network namespace that nothing leads into, and wrong
anywhere else. It ends on SIGTERM or SIGINT.
"""

import asyncio
import importlib.util
import logging
import signal
import sys


def why_no_broker() -> str | None:
    """What is missing, in one line that says what to do; None if the broker can be run."""
    if importlib.util.find_spec("amqtt") is None:
        return "the broker amqtt is not installed: pip install 'locum[broker]'"
    return None


async def serve(bind: str) -> None:
    """Serve on "address:port" until a signal ends it. Raises amqtt's BrokerError if the port cannot be had."""
    from amqtt.broker import Broker

    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    broker = Broker(
        {
            "listeners": {"default": {"type": "tcp", "bind": bind}},
            # Its own default also logs every packet, and publishes $SYS topics that nobody here reads.
            "plugins": {"amqtt.plugins.authentication.AnonymousAuthPlugin": {"allow_anonymous": True}},
        }
    )
    await broker.start()
    await stop.wait()
    await broker.shutdown()


def main() -> int:
    if len(sys.argv) != 2 or ":" not in sys.argv[1]:
        print("usage: python -m locum.demo.broker ADDRESS:PORT", file=sys.stderr)
        return 2
    if why := why_no_broker():
        print(why, file=sys.stderr)
        return 1
    # A host that loses its power is what this broker is here to see, and amqtt reports each with a traceback.
    logging.disable(logging.CRITICAL)
    asyncio.run(serve(sys.argv[1]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
