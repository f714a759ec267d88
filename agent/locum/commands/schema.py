"""`locum schema`: the topics and their messages, as JSON with JSON Schemas, for who writes a subscriber."""

import json

from locum.messages import EVENTS, MODELS, Topics

RETAINED = frozenset({"node", "service"})


def schema() -> int:
    """Prints it, and returns 0."""
    topics = Topics("<cluster>")
    names = {
        "beat": topics.beat("<node>"),
        "node": topics.node("<node>"),
        "service": topics.service("<service>"),
        "event": topics.event("<service or node>", "<type>"),
        "command": topics.command("<service>"),
    }
    described = [
        {"topic": topic, "qos": 1, "retained": kind in RETAINED, "payload": MODELS[kind].model_json_schema()}
        for kind, topic in names.items()
    ]
    print(json.dumps({"topics": described, "event_types": EVENTS}, indent=2))
    return 0
