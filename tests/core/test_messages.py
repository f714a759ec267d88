"""What comes from the bus may be anything. It is a good message, or one line in the log and nothing else."""

import json
import re
from random import Random
from types import SimpleNamespace
from typing import Any

import aiomqtt
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from locum import ports
from locum.bus import Bus, decode
from locum.config import ConfigError, parse
from locum.coordinator import Coordinator
from locum.messages import (
    EPOCH_MOST,
    MODELS,
    NAME,
    PAYLOAD_MOST,
    Beat,
    Command,
    Event,
    Message,
    NodeState,
    Role,
    ServiceState,
    Standing,
    Topics,
)
from tests.core.test_coordinator import config as configured

settings.register_profile("busy", deadline=None)  # how long an example takes says nothing on a busy machine
settings.load_profile("busy")

GOOD: dict[str, tuple[str, dict[str, Any]]] = {
    "beat": (
        "alpha",
        {
            "node": "alpha",
            "boot": "alpha/0f3a",
            "seq": 7,
            "every": 0.5,
            "config": "0123456789ab",
            "services": {"web": {"role": "active", "epoch": 3, "successor": None, "clean": False}},
        },
    ),
    "node": ("alpha", {"node": "alpha", "state": "offline", "reason": "lost", "boot": "alpha/0f3a", "since": "now"}),
    "service": ("web", {"service": "web", "holder": "alpha", "epoch": 3, "since": "now", "by": "alpha"}),
    "event": (
        "web",
        {
            "specversion": "1.0",
            "id": "alpha-1",
            "source": "locum/shop/alpha",
            "type": "locum.service.active",
            "subject": "web",
            "time": "2024-02-29T12:00:00Z",
            "datacontenttype": "application/json",
            "data": {"from": "acquiring", "to": "active"},
        },
    ),
    "command": ("web", {"id": "1", "command": "switchover", "service": "web", "to": "beta", "by": "ops"}),
}
"""A good message of every kind, and the name in its topic."""

ERROR_MOST = 500
"""Characters of the line that tells why a message is ignored."""

LONG_DEEP = b'{"id":"1","source":"s","type":"t","subject":"web","time":"","data":%s1%s}'

kinds = st.sampled_from(sorted(GOOD))
odd_values = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.sampled_from([0, -1, EPOCH_MOST, EPOCH_MOST + 1, 2**63, 2**64, 10**400, 0.5]),
    st.floats(),
    st.text(),
    st.sampled_from(
        ["", "a\nb", "\x1b[2J", "\x00", "\u2028", "../etc", "a/b", "+", "#", "é", "web", "alpha", "x" * 2000]
    ),
    st.lists(st.integers(), max_size=2),
    st.dictionaries(st.text(max_size=5), st.integers(), max_size=2),
)


def dumped(value: object) -> bytes:
    return json.dumps(value).encode()


def outcome(kind: str, name: str, payload: object) -> Message | str | None:
    """The message, or the line that says why it is none. Anything but ValueError is a fault of ours."""
    try:
        return decode(kind, name, payload)
    except ValueError as error:
        line = str(error)
        assert line, "a message that is ignored for no reason"
        assert all(character.isprintable() for character in line), f"more than one line, or worse: {line!r}"
        assert len(line) <= ERROR_MOST
        return line


def texts(value: object) -> list[str]:
    """Every text in a message but those in an event's data, which are anybody's."""
    match value:
        case str():
            return [value]
        case dict():
            return [text for key, item in value.items() if key != "data" for text in [key, *texts(item)]]
        case list() | tuple():
            return [text for item in value for text in texts(item)]
    return []


# -- good messages ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", sorted(GOOD))
def test_a_good_message_survives_the_way_over_the_bus(kind: str) -> None:
    name, said = GOOD[kind]
    message = decode(kind, name, dumped(said))
    assert message is not None
    understood = message.model_dump(mode="json")
    assert {key: understood[key] for key in said if key != "services"} == {
        key: value for key, value in said.items() if key != "services"
    }
    if isinstance(message, Beat):
        assert message.services["web"].role is Role.ACTIVE
        assert message.services["web"].epoch == 3
    assert decode(kind, name, message.model_dump_json().encode()) == message
    assert decode(kind, name, message.model_dump_json(exclude_defaults=True).encode()) == message


@pytest.mark.parametrize("kind", sorted(GOOD))
def test_a_newer_version_may_say_more(kind: str) -> None:
    name, said = GOOD[kind]
    assert decode(kind, name, dumped(said | {"mood": ["good"]})) == decode(kind, name, dumped(said))


@pytest.mark.parametrize("kind", sorted(GOOD))
def test_an_emptied_topic_says_nothing(kind: str) -> None:
    assert decode(kind, GOOD[kind][0], b"") is None


@pytest.mark.parametrize("kind", sorted(GOOD))
def test_a_message_under_anothers_name_is_ignored(kind: str) -> None:
    line = outcome(kind, "gamma", dumped(GOOD[kind][1]))
    assert isinstance(line, str)
    assert "gamma" in line
    assert GOOD[kind][0] in line


names = st.from_regex(r"\A[A-Za-z0-9][A-Za-z0-9_.-]{0,62}\Z")
epochs = st.integers(0, EPOCH_MOST)
lines = st.text(st.characters(exclude_categories=["C", "Z"]), max_size=40)
standings = st.builds(
    Standing, role=st.sampled_from(Role), epoch=epochs, successor=st.none() | names, clean=st.booleans()
)


@given(
    st.one_of(
        st.builds(
            Beat,
            node=names,
            boot=names.map(lambda name: f"{name}/0f"),
            seq=epochs,
            every=st.floats(0.1, 3600),
            config=lines,
            services=st.dictionaries(names, standings, max_size=3),
        ),
        st.builds(NodeState, node=names, state=st.sampled_from(["online", "offline"]), reason=lines),
        st.builds(ServiceState, service=names, holder=st.none() | names, epoch=epochs, since=lines),
        st.builds(
            Command, id=lines.filter(bool), command=st.just("switchover"), service=names, to=st.none() | names, by=lines
        ),
        st.builds(
            Event,
            id=lines.filter(bool),
            source=lines,
            type=lines,
            subject=names,
            time=lines,
            data=st.dictionaries(st.text(), st.integers(-(2**53), 2**53) | st.text() | st.booleans()),
        ),
    )
)
def test_whatever_we_can_say_can_be_understood(message: Message) -> None:
    kind = next(kind for kind, model in MODELS.items() if type(message) is model)
    field = {"event": "subject", "service": "service", "command": "service"}.get(kind, "node")
    name = getattr(message, field)
    assert decode(kind, name, message.model_dump_json().encode()) == message
    assert decode(kind, name, message.model_dump_json(exclude_defaults=True).encode()) == message


# -- bad ones -----------------------------------------------------------------------------------------------------


@given(kinds, st.binary(max_size=300))
@example("beat", b"\xff\xfe")
@example("beat", b"\xef\xbb\xbf{}")
@example("beat", b'{"node":"\xff"}')
@example("event", b"[" * PAYLOAD_MOST)
@example("event", LONG_DEEP % (b'{"a":' * 5000, b"}" * 5000))
@example("node", b'{"node":"\\ud800","state":"online"}')
@example("beat", b'{"node":"alpha","boot":"alpha/1","seq":1e999,"every":1}')
@example("beat", b'{"node":"alpha","boot":"alpha/1","seq":' + b"9" * 6000 + b',"every":1}')
@example("beat", b'{"node":"alpha","boot":"alpha/1","seq":1,"every":1,"services":{"a\\nb":{"role":"active"}}}')
@example("beat", b'{"node":"alpha","boot":"alpha/1","seq":1,"every":1,"services":{"%s":{}}}' % (b"w" * 60000))
def test_arbitrary_bytes(kind: str, payload: bytes) -> None:
    outcome(kind, GOOD[kind][0], payload)


@given(kinds, st.recursive(odd_values, lambda inner: st.dictionaries(st.text(max_size=8), inner, max_size=4)))
def test_arbitrary_json(kind: str, value: object) -> None:
    outcome(kind, GOOD[kind][0], dumped(value))


@given(kinds, st.data())
def test_a_good_message_with_one_thing_changed(kind: str, data: st.DataObject) -> None:
    name, good = GOOD[kind]
    said = json.loads(json.dumps(good))
    place = said
    while True:
        key = data.draw(st.sampled_from(sorted(place)))
        if isinstance(place[key], dict) and place[key] and data.draw(st.booleans()):
            place = place[key]
            continue
        break
    match data.draw(st.sampled_from(["value", "gone", "renamed"])):
        case "value":
            place[key] = data.draw(odd_values)
        case "gone":
            del place[key]
        case _:
            place[data.draw(st.text(max_size=20))] = place.pop(key)
    message = outcome(kind, name, dumped(said))
    if isinstance(message, Message):
        assert decode(kind, name, message.model_dump_json().encode()) == message, "it cannot be passed on"


@given(kinds, st.integers(0, 400), st.binary(max_size=3))
def test_a_good_message_with_some_bytes_changed(kind: str, at: int, junk: bytes) -> None:
    name, good = GOOD[kind]
    payload = dumped(good)
    outcome(kind, name, payload[:at] + junk + payload[at + 1 :])


@pytest.mark.parametrize("payload", ["text", 5, 1.5, None, ["list"]])
def test_what_is_not_bytes(payload: object) -> None:
    assert outcome("beat", "alpha", payload) == "its payload is not bytes"


def test_a_long_message_is_not_even_parsed() -> None:
    line = outcome("node", "alpha", b" " * PAYLOAD_MOST + dumped(GOOD["node"][1]))
    assert isinstance(line, str)
    assert str(PAYLOAD_MOST) in line


@pytest.mark.parametrize("kind", sorted(GOOD))
@pytest.mark.parametrize("evil", ["a\nb", "a\rb", "\x1b[2J", "\x00", "\x9b31m", "\u2028", "\x7f"])
def test_no_text_of_a_message_can_break_a_log_line(kind: str, evil: str) -> None:
    name, good = GOOD[kind]
    for key, value in good.items():
        if isinstance(value, str):
            message = outcome(kind, name, dumped(good | {key: evil}))
            if isinstance(message, Message):
                assert evil not in "".join(texts(message.model_dump(mode="json"))), f"{key} lets {evil!r} through"


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999", "-1", "9007199254740993", "0.5", "1e308"])
@pytest.mark.parametrize("key", ["seq", "epoch"])
def test_a_number_that_is_none_counts_nothing(key: str, number: str) -> None:
    beat = dumped(GOOD["beat"][1]).replace(
        {"seq": b'"seq": 7', "epoch": b'"epoch": 3'}[key], f'"{key}": {number}'.encode()
    )
    line = outcome("beat", "alpha", beat)
    assert isinstance(line, str)
    assert key in line


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_an_event_holds_no_number_that_json_does_not_have(number: str) -> None:
    """RFC 8259, section 6: a reader of ours that passes it on would write null in its place."""
    event = dumped(GOOD["event"][1]).replace(b'"acquiring"', number.encode())
    assert isinstance(outcome("event", "web", event), str)


def test_an_event_as_deep_as_may_be_can_be_written_again() -> None:
    for depth in (10, 100, 190, 250, 500, 1000):
        message = outcome("event", "web", LONG_DEEP % (b'{"a":' * depth, b"}" * depth))
        if isinstance(message, Message):
            assert decode("event", "web", message.model_dump_json().encode()) == message


# -- topics -------------------------------------------------------------------------------------------------------


def test_each_topic_is_understood_by_whoever_hears_it() -> None:
    topics = Topics("shop")
    assert topics.parse(topics.beat("alpha")) == ("beat", "alpha")
    assert topics.parse(topics.node("alpha")) == ("node", "alpha")
    assert topics.parse(topics.service("web")) == ("service", "web")
    assert topics.parse(topics.command("web")) == ("command", "web")
    assert topics.parse(topics.event("web", "active")) == ("event", "web")


@pytest.mark.parametrize(
    "topic",
    [
        "",
        "/",
        "locum/shop",
        "locum/shop/",
        "locum/shop/beat",
        "locum/shop/beat/",
        "locum/shop/beat/alpha/more",
        "locum/shop/event/web",
        "locum/shop/mood/web",
        "locum/shops/beat/alpha",
        "locum/sho/beat/alpha",
        "LOCUM/shop/beat/alpha",
        "$SYS/locum/shop/beat/alpha",
    ],
)
def test_other_topics_are_none_of_ours(topic: str) -> None:
    assert Topics("shop").parse(topic) is None


@given(st.text(max_size=60) | st.text(max_size=30).map(lambda rest: f"locum/shop/{rest}"))
@example("locum/shop/event//x")
@example("locum/shop/event/web/")
@example("locum/shop/beat/al\npha")
@example("locum/shop/beat/alpha\n")
@example("locum/shop/service/" + "w" * 60_000)
def test_arbitrary_topics(topic: str) -> None:
    parsed = Topics("shop").parse(topic)
    if parsed is not None:
        kind, name = parsed
        assert topic.startswith(f"locum/shop/{kind}/{name}")
        assert kind in MODELS
        assert re.fullmatch(NAME, name), "a name that no node or service may have, and that may break a log line"


# -- and what it means for a node ---------------------------------------------------------------------------------


EVIL = [
    b"{",
    b"\xff",
    b"[1]",
    b'{"services":{"a\\nb":{}}}',
    b'{"node":"gamma","service":"gamma","id":"\\n"}',
    b"x" * 70_000,
]


@pytest.mark.parametrize("kind", ["beat", "node", "service", "command"])
@pytest.mark.parametrize("payload", EVIL, ids=range(len(EVIL)))
def test_what_does_not_parse_is_one_line_in_the_log_and_nothing_else(
    kind: str, payload: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    heard: list[Message] = []
    bus = Bus(
        configured(),
        "alpha",
        "alpha/1",
        b"",
        keys=None,
        on_up=lambda broker: None,
        on_down=lambda broker: None,
        on_message=lambda broker, message, retained: heard.append(message),  # type: ignore[func-returns-value,return-value]
        tell_loss=lambda count: None,  # type: ignore[arg-type,return-value]
    )
    connection = SimpleNamespace(number=0, echoed_at=0.0)
    name, good = GOOD[kind]
    for _ in range(3):
        message = aiomqtt.Message(f"locum/shop/{kind}/{name}", payload, 1, False, 1, None)
        bus.take_in(connection, message)  # type: ignore[arg-type]
    assert heard == []
    (line,) = [record.getMessage() for record in caplog.records]
    assert line.isprintable()
    assert f"locum/shop/{kind}/{name}" in line
    bus.take_in(connection, aiomqtt.Message(f"locum/shop/{kind}/{name}", dumped(good), 1, False, 1, None))  # type: ignore[arg-type]
    assert len(heard) == 1


def test_a_message_of_the_wrong_kind_or_name_is_never_heard() -> None:
    """Every payload on every kind of topic: only its own is one."""
    for kind in GOOD:
        for other, (name, said) in GOOD.items():
            message = outcome(kind, name, dumped(said))
            assert isinstance(message, Message) == (kind == other)


@given(st.sampled_from(["beat", "node", "service", "command"]), st.dictionaries(st.text(max_size=8), odd_values))
def test_what_does_parse_never_breaks_a_node(kind: str, changes: dict[str, Any]) -> None:
    """Well-formed nonsense (foreign names, odd epochs) goes all the way into the coordinator: it
    may not raise, and what the node says next is still a message."""
    config = parse(
        'cluster = "shop"\nbrokers = ["mqtt://10.0.0.3"]\n'
        '[nodes.alpha]\naddress = "10.0.0.1"\n[nodes.beta]\naddress = "10.0.0.2"\n'
        '[services.web]\naddresses = ["10.0.0.100/24"]\ninterface = "eth0"\nnodes = ["alpha", "beta"]\n'
    )
    name, good = GOOD[kind]
    keys = sorted(good)
    said = good | {keys[len(key) % len(keys)]: value for key, value in changes.items()}
    message = outcome(kind, name, dumped(said))
    if not isinstance(message, Message):
        return
    node = Coordinator(config, "beta", "beta/1", now=0.0, rng=Random(1))
    events: list[ports.Input] = [ports.BrokerUp(0)]
    match message:
        case Beat():
            events.append(ports.BeatHeard(0, message))
        case NodeState():
            events.append(ports.NodeHeard(0, message))
        case ServiceState():
            events.append(ports.ServiceHeard(0, message))
        case Command():
            events.append(ports.CommandHeard(message))
    events.append(ports.Tick())
    for at, event in enumerate(events):
        for output in node.step(0.3 * at, event):
            if isinstance(output, ports.SendBeat):
                assert decode("beat", "beta", output.beat.model_dump_json().encode()) == output.beat


def test_the_longest_beat_that_a_configuration_allows_is_heard() -> None:
    """Else a cluster that loads its configuration would never claim anything: nobody hears anybody."""
    text = ['cluster = "shop"\nbrokers = ["mqtt://10.0.0.3"]']
    nodes = ["a" * 63, "b" * 63]
    text += [f'[nodes.{name}]\naddress = "10.0.0.{place}"' for place, name in enumerate(nodes, 1)]
    longest, count = None, 1024
    while longest is None:
        services = [
            f'[services.{place:x<63}]\naddresses = ["10.1.{place // 250}.{place % 250 + 1}/16"]\n'
            f'interface = "eth0"\nnodes = {nodes}'
            for place in range(count)
        ]
        try:
            longest = parse("\n".join([*text, *services]))
        except ConfigError:  # more than a configuration may have: then these need not fit
            count -= 64
    assert count > 0
    standings = {
        name: Standing(role=Role.STANDBY, epoch=EPOCH_MOST, successor=nodes[1], clean=True) for name in longest.services
    }
    beat = Beat(node=nodes[0], boot=f"{nodes[0]}/{'f' * 12}", seq=EPOCH_MOST, every=0.5, services=standings)
    assert isinstance(outcome("beat", nodes[0], beat.model_dump_json(exclude_defaults=True).encode()), Beat)
