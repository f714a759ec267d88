"""The configuration file: a mistake is one line (where, what, what instead), and a good file means what it says."""

import math
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from locum.cli import app
from locum.config import FILE_MOST, Config, ConfigError, broker_address, broker_ways, load, parse

settings.register_profile("busy", deadline=None)  # how long an example takes says nothing on a busy machine
settings.load_profile("busy")

GOOD = """\
cluster = "shop"
brokers = ["mqtt://10.0.0.3:1883"]
on_bus_loss = "hold"
gateway = "10.0.0.254"

[timing]
beat = "500ms"
lease = "2s"

[nodes.alpha]
address = "10.0.0.1"
[nodes.beta]
address = "10.0.0.2"

[services.web]
addresses = ["10.0.0.100/24", "fd00::64/64"]
interface = "eth0"
nodes = ["alpha", "beta"]
failback = "manual"
failback_delay = "60s"
hooks_dir = "/etc/locum/hooks"
hook_timeout = "60s"
"""

LINE_MOST = 400
"""Characters of one problem."""


def problems(text: str, path: str = "locum.toml") -> list[str]:
    """What is wrong with the text; checks that each problem is one line for people."""
    try:
        parse(text, path)
    except ConfigError as error:
        assert error.problems, "refused for no reason"
        for line in error.problems:
            assert line.isprintable(), f"more than one line, or worse: {line!r}"
            assert line.startswith(f"{path}: ")
            assert len(line) <= LINE_MOST, line
            assert "Traceback" not in line
        assert len(set(error.problems)) == len(error.problems), "said twice"
        return error.problems
    return []


def without(key: str) -> str:
    return re.sub(rf"(?m)^{key} = .*\n", "", GOOD)


def swapped(old: str, new: str) -> str:
    assert GOOD.count(old) == 1, old
    return GOOD.replace(old, new)


BAD: dict[str, tuple[str, str, str]] = {
    # what is wrong: (the text, how the line goes on behind the file's name, what it says would be right)
    "not TOML": (swapped('"shop"', '"shop'), "not valid TOML", "line 1"),
    "a key given twice": ('cluster = "a"\n' + GOOD, "not valid TOML", "line 2"),
    "a key that does not exist": (swapped("gateway", "gatewy"), "gatewy: unknown key", "gateway"),
    "a section that does not exist": (GOOD + "[logging]\n", "logging: unknown key", "timing"),
    "a key of a service that does not exist": (
        swapped("hook_timeout", "timeout"),
        "services.web.timeout: unknown key",
        "hook_timeout",
    ),
    "a key of a node that does not exist": (
        swapped("[nodes.beta]\n", '[nodes.beta]\nadress = "10.0.0.2"\n'),
        "nodes.beta.adress: unknown key",
        "did you mean 'address'?",
    ),
    "a key of the timing that does not exist": (swapped("beat =", "heartbeat ="), "timing.heartbeat: unknown", "beat"),
    "a key with a line break": ('"a\\nb" = 1\n' + GOOD, "", "unknown key"),
    "a service under a name with a line break": (
        swapped("[services.web]", '[services."a\\nb"]'),
        "services.",
        "letters, digits",
    ),
    "no cluster": (without("cluster"), "cluster: is missing", '"'),
    "no brokers": (without("brokers"), "brokers: is missing", "mqtt://"),
    "no interface": (without("interface"), "services.web.interface: is missing", '"eth0"'),
    "a name with a slash": (swapped('"shop"', '"sh/op"'), "cluster: 'sh/op' is not a name", "letters, digits"),
    "a name that is a number": (swapped('"shop"', "5"), "cluster: ", "string"),
    "a name that is a huge number": (swapped('"shop"', "0x" + "f" * 6000), "cluster: ", "string"),
    "a name that is a deep table": (swapped("cluster =", f"cluster{'.a' * 5000} ="), "cluster: ", "string"),
    "brokers as a string": (swapped('["mqtt://10.0.0.3:1883"]', '"mqtt://10.0.0.3"'), "brokers: ", "list"),
    "an empty list of brokers": (swapped('["mqtt://10.0.0.3:1883"]', "[]"), "brokers: ", "at least 1"),
    "two brokers": (
        swapped('["mqtt://10.0.0.3:1883"]', '["mqtt://10.0.0.3", "mqtt://10.0.0.4"]'),
        "brokers: 2 of them",
        "odd number",
    ),
    "a broker twice": (
        swapped('["mqtt://10.0.0.3:1883"]', '["mqtt://10.0.0.3", "mqtt://10.0.0.4", "mqtt://10.0.0.3:1883"]'),
        "brokers: 10.0.0.3:1883 is listed more than once",
        "one vote",
    ),
    "a broker without a scheme": (swapped("mqtt://10.0.0.3:1883", "10.0.0.3"), "brokers[0]: '10.0.0.3'", "mqtt://"),
    "a broker with another scheme": (swapped("mqtt://10.0.0.3", "http://10.0.0.3"), "brokers[0]: ", "mqtt://"),
    "a broker with a password": (swapped("mqtt://", "mqtt://me:secret@"), "brokers[0]: ", "must not carry"),
    "a broker with a port that is none": (swapped("1883", "70000"), "brokers[0]: ", "mqtt://"),
    "a broker with a blank": (swapped("mqtt://10.0.0.3", "mqtt://10.0. 0.3"), "brokers[0]: ", "mqtt://"),
    "a broker with a line break": (swapped("mqtt://10.0.0.3", "mqtt://10.0.\\n0.3"), "brokers[0]: ", "mqtt://"),
    "a policy that does not exist": (swapped('"hold"', '"keep"'), "on_bus_loss: 'keep' is not", "'hold' or 'release'"),
    "a failback that does not exist": (swapped('"manual"', "true"), "services.web.failback: ", "'manual' or 'auto'"),
    "a gateway by name": (swapped('"10.0.0.254"', '"router"'), "gateway: 'router' is not", "10.0.0.1"),
    "a duration without its unit": (swapped('"500ms"', "5"), "timing.beat: 5", '"5s"'),
    "a huge duration without its unit": (swapped('"500ms"', "0x" + "f" * 6000), "timing.beat: ", "unit"),
    "a duration that is none": (swapped('"500ms"', '"soon"'), "timing.beat: 'soon' is not a duration", '"500ms"'),
    "a negative duration": (swapped('"500ms"', '"-1s"'), "timing.beat: '-1s' is not a duration", '"500ms"'),
    "a beat that is too short": (swapped('"500ms"', '"5ms"'), "timing.beat: 0.005s is shorter", "0.1s"),
    "a beat of no length": (swapped('"500ms"', '"0s"'), "timing.beat: 0s is shorter", "0.1s"),
    "a lease that is too short": (swapped('"2s"', '"1.2s"'), "timing.lease: 1.2s is too short", "1.5s or more"),
    "a lease that is too long": (swapped('"2s"', '"1h"'), "timing.lease: 3600s is longer", "600s"),
    "a hook timeout without end": (
        swapped('hook_timeout = "60s"', f'hook_timeout = "{"9" * 400}s"'),
        "services.web.hook_timeout: ",
        "",
    ),
    "a failback delay without end": (
        swapped('failback_delay = "60s"', f'failback_delay = "{"9" * 400}s"'),
        "services.web.failback_delay: ",
        "",
    ),
    "a hook timeout of no length": (
        swapped('hook_timeout = "60s"', 'hook_timeout = "0s"'),
        "services.web.hook_timeout: ",
        "more than",
    ),
    "an address without its prefix length": (
        swapped('"10.0.0.100/24"', '"10.0.0.100"'),
        "services.web.addresses[0]: '10.0.0.100'",
        "10.0.0.100/24",
    ),
    "an address that is none": (swapped("10.0.0.100/24", "10.0.0.300/24"), "services.web.addresses[0]: ", "10.0.0.300"),
    "an address that is a network": (swapped("10.0.0.100/24", "10.0.0.0/24"), "services.web.addresses[0]: ", "network"),
    "an address that is everybody's": (
        swapped("10.0.0.100/24", "10.0.0.255/24"),
        "services.web.addresses[0]: ",
        "broadcast",
    ),
    "an address of this host alone": (
        swapped("10.0.0.100/24", "127.0.0.1/8"),
        "services.web.addresses[0]: ",
        "unicast",
    ),
    "an address with a scope": (swapped("fd00::64/64", "fe80::1%eth0/64"), "services.web.addresses[1]: ", "unicast"),
    "no address": (
        swapped('["10.0.0.100/24", "fd00::64/64"]', "[]"),
        "services.web.addresses: ",
        "at least 1",
    ),
    "an address twice": (
        swapped('"fd00::64/64"', '"10.0.0.100/24"'),
        "services.web.addresses: 10.0.0.100 belongs to services.web",
        "one service",
    ),
    "a node's address": (
        swapped("10.0.0.100/24", "10.0.0.2/24"),
        "services.web.addresses: 10.0.0.2 belongs to nodes.beta",
        "one service",
    ),
    "an address on two services": (
        GOOD + '[services.mail]\naddresses = ["10.0.0.100/24"]\ninterface = "eth0"\nnodes = ["alpha"]\n',
        "services.mail.addresses: 10.0.0.100 belongs to services.web",
        "one service",
    ),
    "a node that does not exist": (
        swapped('["alpha", "beta"]', '["alpha", "betta"]'),
        "services.web.nodes: there is no node 'betta'",
        "did you mean 'beta'?",
    ),
    "a node twice": (swapped('["alpha", "beta"]', '["alpha", "alpha"]'), "services.web.nodes: ", "alpha"),
    "two nodes with one address": (swapped('"10.0.0.2"', '"10.0.0.1"'), "nodes", "10.0.0.1"),
    "a service with a node's name": (
        swapped("[services.web]", "[services.beta]"),
        "services.beta: a node has this name",
        "rename",
    ),
    "an interface with a slash": (swapped('"eth0"', '"eth/0"'), "services.web.interface: 'eth/0' is not", "interface"),
    "an interface that is a folder": (swapped('"eth0"', '".."'), "services.web.interface: '..' is not", "interface"),
    "an interface of control characters": (swapped('"eth0"', '"\\u0001"'), "services.web.interface: ", "interface"),
    "an interface longer than the kernel's": (
        swapped('"eth0"', '"' + "é" * 15 + '"'),
        "services.web.interface: ",
        "interface",
    ),
    "a folder that is a number": (swapped('"/etc/locum/hooks"', "5"), "services.web.hooks_dir: ", "path"),
    "a folder that no system has": (swapped('"/etc/locum/hooks"', '"/a\\u0000b"'), "services.web.hooks_dir: ", ""),
    "a folder that depends on where one stands": (
        swapped('"/etc/locum/hooks"', '"hooks"'),
        "services.web.hooks_dir: ",
        "/",
    ),
}


def placed(mail: str = "", db: str = "", web: str = "", nodes: str = '"alpha", "beta"') -> str:
    """A good file with two more services, and these lines in them."""
    text = swapped('interface = "eth0"', f'interface = "eth0"\n{web}') if web else GOOD
    for number, (name, more) in enumerate((("mail", mail), ("db", db))):
        text += f'[services.{name}]\naddresses = ["10.0.0.{150 + number}/24"]\ninterface = "eth0"\n'
        text += f"nodes = [{nodes}]\n{more}\n"
    return text


WITH_WEB = 'together_with = "web"'
BAD |= {
    "together with what is not there": (
        placed('together_with = "wep"'),
        "services.mail.together_with: there is no service 'wep'",
        "did you mean 'web'?",
    ),
    "apart from what is not there": (
        placed('apart_from = ["dbb"]'),
        "services.mail.apart_from: there is no service 'dbb'",
        "did you mean 'db'?",
    ),
    "together with itself": (placed('together_with = "mail"'), "services.mail.together_with: that is this", "itself"),
    "apart from itself": (placed('apart_from = ["mail"]'), "services.mail.apart_from: that is this", "itself"),
    "together with one that goes with another": (
        placed(WITH_WEB, 'together_with = "mail"'),
        "services.db.together_with: mail goes where web goes",
        "name web",
    ),
    "apart from one that goes with another": (
        placed(WITH_WEB, 'apart_from = ["mail"]'),
        "services.db.apart_from: mail goes where web goes",
        "name web",
    ),
    "together with one, and apart from another": (
        placed(f'{WITH_WEB}\napart_from = ["db"]'),
        "services.mail.apart_from: it goes where web goes",
        "say it of web",
    ),
    "together, and failback of its own": (
        placed(f'{WITH_WEB}\nfailback = "auto"'),
        "services.mail.failback: it goes where web goes",
        "say it of web",
    ),
    "together with one that goes where it cannot": (
        placed(WITH_WEB, nodes='"alpha"'),
        "services.mail.nodes: web may go to beta",
        "must be able to go with it",
    ),
}
DOG = 'watchdog = "/dev/watchdog"'
BAD |= {
    "a watchdog that depends on where one stands": (placed('watchdog = "dog"'), "services.mail.watchdog: ", "/"),
    "two watchdogs": (
        placed(DOG, 'watchdog = "/dev/watchdog1"'),
        "services.db.watchdog: another service names /dev/watchdog;",
        "a machine needs one",
    ),
    "a watchdog beside beats that may be late": (
        placed(DOG).replace('"500ms"', '"1200ms"').replace('"2s"', '"3600ms"'),
        "services.mail.watchdog: a lease of 3.6s leaves 2.1s for late beats",
        "less than two beats",
    ),
}


def test_together_and_apart_are_known_from_both_sides() -> None:
    config = parse(placed(WITH_WEB, 'apart_from = ["web"]'))
    assert config.followers("web") == ["mail"] and config.followers("mail") == []
    assert config.strangers("web") == ["db"] and config.strangers("db") == ["web"] and config.strangers("mail") == []
    assert parse(placed(WITH_WEB)).digest() != parse(placed()).digest() != parse(placed('apart_from=["db"]')).digest()


@pytest.mark.parametrize("what", BAD)
def test_a_mistake_is_one_line(what: str) -> None:
    text, where, right = BAD[what]
    found = problems(text, "/etc/locum/locum.toml")
    assert len(found) == 1, found
    assert found[0].startswith(f"/etc/locum/locum.toml: {where}")
    assert right in found[0].removeprefix(f"/etc/locum/locum.toml: {where}"), found[0]


def test_all_mistakes_at_once() -> None:
    text = swapped('"shop"', '"sh op"').replace('"hold"', '"keep"').replace('"eth0"', '"eth/0"')
    assert [line.split(": ")[1] for line in problems(text)] == ["cluster", "on_bus_loss", "services.web.interface"]


def test_all_contradictions_at_once() -> None:
    text = swapped('"2s"', '"1s"').replace('["alpha", "beta"]', '["alpha", "gamma"]').replace("10.0.0.100", "10.0.0.1")
    assert [line.split(": ")[1] for line in problems(text)] == [
        "timing.lease",
        "services.web.nodes",
        "services.web.addresses",
    ]


def test_a_node_that_is_not_in_the_file() -> None:
    with pytest.raises(ConfigError) as raised:
        parse(GOOD, "/etc/locum/locum.toml").require_node("gamma")
    assert raised.value.problems == [
        "/etc/locum/locum.toml: nodes: there is no node 'gamma' (there are alpha, beta); use --node NAME"
    ]


# -- the file itself ----------------------------------------------------------------------------------------------


def refused(path: Path) -> str:
    with pytest.raises(ConfigError) as raised:
        load(path)
    (line,) = raised.value.problems
    assert line.startswith(f"{path}: ")
    return line.removeprefix(f"{path}: ")


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    assert refused(tmp_path / "none.toml") == "cannot be read: No such file or directory"
    assert refused(tmp_path) == "cannot be read: Is a directory"


def test_a_file_that_is_not_text(tmp_path: Path) -> None:
    path = tmp_path / "locum.toml"
    path.write_bytes(b'cluster = "\xff"')
    assert refused(path) == "byte 11 is not UTF-8; save the file as UTF-8"


def test_a_file_that_is_no_configuration_at_all(tmp_path: Path) -> None:
    path = tmp_path / "locum.toml"
    path.write_bytes(b"#" * (FILE_MOST + 1))
    assert "larger than" in refused(path)
    path.write_bytes(b"")
    with pytest.raises(ConfigError) as raised:
        load(path)
    assert [line.split(": ")[1] for line in raised.value.problems] == ["cluster", "brokers", "nodes", "services"]


@pytest.mark.parametrize("command", ["run", "check", "status"])
def test_a_command_with_a_bad_file_says_so_and_does_nothing(command: str, tmp_path: Path) -> None:
    path = tmp_path / "locum.toml"
    path.write_text(swapped("gateway", "gatewy"))
    result = CliRunner().invoke(app, [command, "--config", str(path)])
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr.startswith(f"{path}: gatewy: unknown key; did you mean 'gateway'?")
    assert result.stderr.count("\n") == 1


# -- whatever the file holds --------------------------------------------------------------------------------------


@given(st.text(max_size=200))
@example("a = 0x" + "f" * 6000)
@example("a = " + "9" * 6000)
@example("a = " + "[" * 5000)
@example("a" + ".a" * 5000 + " = 1")
@example("cluster" + ".a" * 5000 + " = 1")
@example('"\\u0000" = 1')
@example("services = 5\nnodes = 5\ntiming = 5\nbrokers = 5")
@example("services = {web = 5}\nnodes = {alpha = 5}\nbrokers = [[]]")
@example("[services.web]\naddresses = [5, {}, [], 1979-05-27, nan, inf]")
def test_arbitrary_text(text: str) -> None:
    problems(text)


@given(st.binary(max_size=200))
@settings(max_examples=50)
def test_arbitrary_bytes(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "any.toml"
    path.write_bytes(content)
    with pytest.raises(ConfigError) as raised:
        load(path)
    assert all(line.isprintable() for line in raised.value.problems)


LINES = GOOD.splitlines()
junk = st.sampled_from(
    ['"', "'", "[", "]", "{", "}", "=", ",", ".", "#", "\\", "\n", "\0", "5", "nan", "-", "é", "/", "%", ":", " ", "[["]
)
values = st.one_of(
    st.sampled_from(["5", "nan", "inf", "-1", "0.5", "true", "[]", "{}", "[[]]", '""', "1979-05-27", "12:00:00"]),
    st.text(max_size=30).map(lambda text: "'''" + text.replace("'", "") + "'''"),
    st.lists(st.text(st.characters(codec="ascii", exclude_characters="'\\"), max_size=9), max_size=3).map(
        lambda texts: "[" + ", ".join("'" + text.replace("\n", "") + "'" for text in texts) + "]"
    ),
)


@given(st.lists(st.tuples(st.integers(0, len(GOOD)), st.integers(0, 8), junk), min_size=1, max_size=3))
def test_a_good_file_with_some_characters_changed(changes: list[tuple[int, int, str]]) -> None:
    text = GOOD
    for at, length, new in changes:
        text = text[:at] + new + text[at + length :]
    problems(text)


@given(st.lists(st.tuples(st.integers(0, len(LINES) - 1), values), min_size=1, max_size=3))
def test_a_good_file_with_some_values_changed(changes: list[tuple[int, str]]) -> None:
    lines = list(LINES)
    for at, value in changes:
        key, equals, _ = lines[at].partition(" = ")
        if equals:
            lines[at] = key + equals + value
    problems("\n".join(lines))


@given(st.permutations(LINES), st.integers(1, len(LINES)))
def test_lines_of_a_good_file_in_any_order(lines: list[str], count: int) -> None:
    problems("\n".join(lines[:count]))


# -- good files ---------------------------------------------------------------------------------------------------


def test_the_file_of_the_design_means_what_it_says() -> None:
    config = parse(GOOD)
    assert problems(GOOD) == []
    assert config.cluster == "shop"
    assert config.brokers == ["mqtt://10.0.0.3:1883"]
    assert config.holds
    assert (config.timing.beat, config.timing.lease) == (0.5, 2.0)
    assert {name: node.address for name, node in config.nodes.items()} == {"alpha": "10.0.0.1", "beta": "10.0.0.2"}
    web = config.services["web"]
    assert [str(address) for address in web.addresses] == ["10.0.0.100/24", "fd00::64/64"]
    assert web.nodes == ["alpha", "beta"]
    assert config.services_of("alpha") == {"web": web}
    assert config.services_of("gamma") == {}


def dump(config: Config) -> str:
    """The configuration as a file again."""

    def value(item: Any) -> str:
        return "[" + ", ".join(value(one) for one in item) + "]" if isinstance(item, list) else f'"{item}"'

    text = [f"{key} = {value(getattr(config, key))}" for key in ("cluster", "brokers", "on_bus_loss")]
    text += [f"gateway = {value(config.gateway)}"] if config.gateway else []
    text += ["[timing]", f'beat = "{config.timing.beat!r}s"', f'lease = "{config.timing.lease!r}s"']
    for name, node in config.nodes.items():
        text += [f'[nodes."{name}"]', f"address = {value(node.address)}"]
    for name, service in config.services.items():
        text += [f'[services."{name}"]']
        text += [
            f"{key} = {value(getattr(service, key))}"
            for key in ("addresses", "interface", "nodes", "failback", "hooks_dir")
        ]
        text += [f'failback_delay = "{service.failback_delay!r}s"', f'hook_timeout = "{service.hook_timeout!r}s"']
    return "\n".join(text)


@st.composite
def good_files(draw: st.DrawFn) -> str:
    """Files with nothing wrong in them, in many spellings."""
    name = st.from_regex(r"\A[A-Za-z0-9][A-Za-z0-9_-]{0,8}\Z")
    count = draw(st.integers(1, 4))
    names = draw(st.lists(name, min_size=count + 2, max_size=count + 2, unique=True))
    nodes, services = names[:count], names[count:]
    brokers = draw(st.sampled_from([1, 3, 5]))
    beat = draw(st.integers(100, 5000))
    lease = draw(st.integers(max(900 + beat, 3 * beat), 600_000))

    def duration(milliseconds: int) -> str:
        spellings = [f"{milliseconds}ms", f"{milliseconds / 1000!r}s", f"{milliseconds / 1000!r} s"]
        if milliseconds % 60_000 == 0:
            spellings.append(f"{milliseconds // 60_000}m")
        return draw(st.sampled_from(spellings))

    text = [f'cluster = "{draw(name)}"', f"brokers = {[f'mqtt://10.9.0.{n + 1}' for n in range(brokers)]}"]
    if draw(st.booleans()):
        text.append(f'on_bus_loss = "{draw(st.sampled_from(["hold", "release"]))}"')
    text.append(f'[timing]\nbeat = "{duration(beat)}"\nlease = "{duration(lease)}"')
    text += [f'[nodes.{node}]\naddress = "10.0.0.{place}"' for place, node in enumerate(nodes, 1)]
    for place, service in enumerate(services):
        where = draw(st.lists(st.sampled_from(nodes), min_size=1, unique=True))
        text.append(f'[services.{service}]\naddresses = ["10.1.0.{place + 1}/24", "fd00::{place + 1}/64"]')
        text.append(f'interface = "eth{place}"\nnodes = {where}')
        text.append(f'hook_timeout = "{duration(draw(st.integers(1, 100_000)))}"')
    return "\n".join(text)


@given(good_files())
def test_a_good_file_is_taken_and_survives_being_written_again(text: str) -> None:
    config = parse(text)
    again = parse(dump(config))
    assert again == config
    assert again.digest() == config.digest()
    said = tomllib.loads(text)
    assert list(config.nodes) == list(said["nodes"])
    assert config.durations().lease == config.timing.lease
    for service in config.services.values():
        assert math.isfinite(service.hook_timeout)


SAME = {
    "a comment": GOOD + "# nothing\n",
    "a duration in other words": swapped('"500ms"', '"0.5s"').replace('"2s"', '"2000ms"').replace('"60s"', '"1m"'),
    "a default that is not said": without("on_bus_loss").replace('failback = "manual"\n', ""),
    "the standard port": swapped(":1883", ""),
    "an IPv6 address in full": swapped("fd00::64/64", "fd00:0:0:0:0:0:0:64/64"),
    "a slash at the end": swapped('"/etc/locum/hooks"', '"/etc/locum/hooks/"'),
    "the tables in another order": swapped('[nodes.alpha]\naddress = "10.0.0.1"\n', "")
    + '[nodes.alpha]\naddress = "10.0.0.1"\n',
}

OTHER = {
    "another cluster": swapped('"shop"', '"shops"'),
    "another beat": swapped('"500ms"', '"501ms"'),
    "another policy": swapped('"hold"', '"release"'),
    "another order of nodes": swapped('["alpha", "beta"]', '["beta", "alpha"]'),
    "another order of addresses": swapped('"10.0.0.100/24", "fd00::64/64"', '"fd00::64/64", "10.0.0.100/24"'),
    "another prefix length": swapped("10.0.0.100/24", "10.0.0.100/25"),
    "another port": swapped("1883", "1884"),
    "no gateway": without("gateway"),
}


@pytest.mark.parametrize("how", SAME)
def test_files_that_mean_the_same_have_one_digest(how: str) -> None:
    assert parse(SAME[how]).digest() == parse(GOOD).digest()


@pytest.mark.parametrize("how", OTHER)
def test_files_that_do_not_mean_the_same_have_two_digests(how: str) -> None:
    assert parse(OTHER[how]).digest() != parse(GOOD).digest()


@given(st.integers(100, 600_000))
def test_milliseconds_and_seconds_are_the_same_time(milliseconds: int) -> None:
    timeouts = [f"{milliseconds}ms", f"{milliseconds // 1000}.{milliseconds % 1000:03}s"]
    digests = {parse(swapped('hook_timeout = "60s"', f'hook_timeout = "{time}"')).digest() for time in timeouts}
    assert len(digests) == 1


GATEWAY = 'cluster = "shop"\ngateway = "{}"'


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (
            'cluster = "shop"',
            GATEWAY.format("10.0.0.1"),
            "gateway: 10.0.0.1 belongs to nodes.alpha; it must be another",
        ),
        ('cluster = "shop"', GATEWAY.format("10.0.0.100"), "gateway: 10.0.0.100 belongs to services.web; it must"),
        ('cluster = "shop"', GATEWAY.format("127.0.0.1"), "gateway: '127.0.0.1' is no address of one other host"),
        ("mqtt://10.0.0.3:1883", "mqtt://localhost:1883", "localhost is another broker on every node"),
        ("mqtt://10.0.0.3:1883", "mqtt://10.0.0.100:1883", "10.0.0.100 belongs to services.web; a broker"),
        ("mqtt://10.0.0.3:1883", "mqtt://a..b:1883", "is not a broker such as"),
    ],
)
def test_an_address_that_would_vouch_for_itself_is_refused(old: str, new: str, said: str) -> None:
    """A holder that pings itself is never alone, and a broker on every node agrees with everybody."""
    text = PAIR.replace(old, new)
    assert text != PAIR
    with pytest.raises(ConfigError) as caught:
        parse(text)
    assert len(caught.value.problems) == 1 and said in caught.value.problems[0]


PAIR = """
cluster = "shop"
brokers = ["mqtt://10.0.0.3:1883"]
[nodes.alpha]
address = "10.0.0.1"
[nodes.beta]
address = "10.0.0.2"
[services.web]
addresses = ["10.0.0.100/24"]
interface = "eth0"
nodes = ["alpha", "beta"]
"""


# -- brokers at several places ------------------------------------------------------------------------------------


def brokers(*urls: str) -> str:
    return GOOD.replace('brokers = ["mqtt://10.0.0.3:1883"]', f"brokers = [{', '.join(repr(url) for url in urls)}]")


def test_a_broker_may_be_reached_at_several_places() -> None:
    url = "mqtts://10.0.0.3,[fd00::3]:8884,broker.example"
    parse(brokers(url))
    assert [broker_address(way) for way in broker_ways(url)] == [
        ("10.0.0.3", 8883),
        ("fd00::3", 8884),
        ("broker.example", 8883),
    ]


@pytest.mark.parametrize(
    ("urls", "problem"),
    [
        (["mqtt://10.0.0.3,"], "is not a broker such as"),
        (["mqtt://10.0.0.3,mqtt://10.0.0.4"], "is not a broker such as"),
        (["mqtt://" + ",".join(f"10.0.0.{n}" for n in range(3, 14))], "is not a broker such as"),
        (["mqtt://10.0.0.3,10.0.0.4", "mqtt://10.0.0.4", "mqtt://10.0.0.5"], "10.0.0.4:1883 is listed more than once"),
        (["mqtt://10.0.0.3,10.0.0.100"], "brokers[0]: 10.0.0.100 belongs to services.web"),
    ],
)
def test_places_that_are_none(urls: list[str], problem: str) -> None:
    with pytest.raises(ConfigError) as told:
        parse(brokers(*urls))
    assert problem in str(told.value)
