"""A guest on the bus: a process in a host of the lab that subscribes to all of a cluster's topics.

    python -m locum.demo.listen locum.toml

Each new message (retained ones of before are none) is one JSON line on standard output: when it came (seconds of
locum.clock), its kind, and the message.
When the broker is gone, and when it is there again, is a line too. It is any MQTT subscriber, not a part of the agent.
"""

import asyncio
import contextlib
import json
import sys
from pathlib import Path

import aiomqtt

from locum.bus import client, decode
from locum.clock import now
from locum.config import Config, broker_address, broker_ways, load
from locum.messages import Topics

PATIENCE = 1.0  # seconds for connecting
PAUSE = 0.02  # seconds between attempts: to be there again before the agents are, and miss nothing


async def listen(config: Config) -> None:
    """Until the process is ended. A broker that goes away is waited for."""
    topics = Topics(config.cluster)
    connected = False
    while True:
        try:
            async with client(broker_address(broker_ways(config.brokers[0])[0]), None, patience=PATIENCE) as broker:
                await broker.subscribe(f"{topics.prefix}#", qos=1)
                connected = True
                _say("bus", {"connected": True})
                async for message in broker.messages:
                    parsed = topics.parse(str(message.topic))
                    with contextlib.suppress(ValueError):  # what does not parse is nobody's message
                        model = decode(*parsed, message.payload) if parsed else None
                        if parsed and model is not None and not message.retain:
                            _say(parsed[0], model.model_dump(mode="json"))
        except aiomqtt.MqttError:
            if connected:
                connected = False
                _say("bus", {"connected": False})
        await asyncio.sleep(PAUSE)


def _say(kind: str, message: dict[str, object]) -> None:
    print(json.dumps({"at": now(), "kind": kind, "message": message}), flush=True)


if __name__ == "__main__":
    asyncio.run(listen(load(Path(sys.argv[1]))))
