"""What the bus says, in plain words: one line for each event."""

from typing import Any

LATE = 0.25  # seconds: an event that came later than this after it happened says so


def of_event(message: dict[str, Any], age: float = 0.0) -> str:
    """One line for an event (a CloudEvents message, as JSON) that came `age` seconds after it happened."""
    node = message["source"].rpartition("/")[2]
    kind = message["type"].rpartition(".")[2]
    data = message["data"]
    if message["type"].startswith("locum.node."):
        kind = f"node-{kind}"
    values = {"node": "", **data, "subject": message["subject"]}
    values["addresses"] = ", ".join(data.get("addresses", []))
    values["hook"] = str(data.get("path", "")).rpartition("/")[2]
    values["how"] = "ok" if data.get("ok") else f"FAILED {data.get('detail') or data.get('status')}"
    values["why"] = f": {data['why']}" if data.get("why") else ""
    values["for"] = f" for {data['peer']}" if data.get("peer") else ""
    pattern = _PATTERNS.get(kind)
    try:
        said = pattern.format_map(values) if pattern else ""
    except KeyError:
        said = ""
    said = said or " ".join([kind, *(f"{key}={value}" for key, value in data.items() if value not in ("", None))])
    # Events that no broker took are kept, and come when there is one again.
    return f"{node} {said}" + (f" ({age:.1f} s ago)" if age > LATE else "")


def of_node(message: dict[str, Any]) -> str:
    """One line for the state of a node, which is its last will if it died."""
    reason = f" ({message['reason']})" if message["reason"] else ""
    return f"{message['node']} is {message['state']}{reason}"


_PATTERNS = {
    "claiming": "claims {subject} ({reason})",
    "acquiring": "is granted {subject}, epoch {epoch}",
    "taken": "has taken {addresses} and announced it",
    "active": "is active",
    "hook": "ran {hook}: {how}",
    "releasing": "releases {subject} ({reason}){for}",
    "dropped": "has dropped {addresses}",
    "standby": "stands by",
    "silent": "has missed a beat of {node}",
    "node-silent": "has not heard {subject} for {seconds:.1f} s",
    "node-back": "hears {subject} again",
    "vacant": "finds the lease of {node} over and the address silent",
    "holding": "holds on: no broker, but {echo} answers",
    "confirmed": "is confirmed by the broker again",
    "command": "follows a command: {what} to {to}, from {by}",
    "refused": "refuses{why}",
    "failed": "failed at {step}{why}",
}
