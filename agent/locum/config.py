"""The configuration file: one TOML file, the same on every node.

Everything that is wrong with it is reported at once, one line each: where, what, and what instead. A file with one
mistake is not used at all.
"""

import difflib
import hashlib
import json
import re
import reprlib
import tomllib
from ipaddress import IPv4Address, IPv4Interface, IPv6Interface, ip_address, ip_interface
from pathlib import Path
from typing import Annotated, Any, Literal, cast
from urllib.parse import urlsplit

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PrivateAttr, ValidationError
from pydantic_core import PydanticCustomError

from locum.messages import NAME, NODES_MOST, SERVICES_MOST
from locum.timing import FASTEST_BEAT, FEWEST_BEATS, SHORTEST_LEASE, Timing

DEFAULT_PATH = Path("/etc/locum/locum.toml")
LONGEST_LEASE = 600.0
LIFETIME_LEAST = 0.9
"""A lease must be longer than this and a beat, so that the kernel's lifetime, in whole seconds, is never nothing."""
LONGEST_DURATION = 7 * 86_400.0
PROBLEMS_MOST = 50
CHECKS_MOST = 64
"""Checks of a service."""
CHECK_FASTEST = 0.1
"""Seconds between two rounds of a check, at least."""

CHECKS_SPREAD = 0.05
"""An interval of a check is longer or shorter by up to this part of it: not all at one moment."""
HOOKS_MOST = 64
"""Ready-made hooks of a service."""
EXAMPLES = {
    "cluster": 'cluster = "shop"',
    "brokers": 'brokers = ["mqtt://10.0.0.3:1883"]',
    "nodes": '[nodes.alpha], or in a service nodes = ["alpha", "beta"]',
    "services": "[services.web]",
    "address": 'address = "10.0.0.1"',
    "addresses": 'addresses = ["10.0.0.100/24"]',
    "interface": 'interface = "eth0"',
    "use": 'use = "ocf"',
}
"""What a key that is missing looks like."""

_REPR = reprlib.Repr()
_REPR.maxstring = _REPR.maxlong = _REPR.maxother = 60

FILE_MOST = 1_048_576
"""Bytes of a configuration file."""

WAYS_MOST = 9
"""Addresses of one broker."""
PORTS = {"mqtt": 1883, "mqtts": 8883}
"""Of a broker whose URL names none, by its scheme."""

Address = IPv4Interface | IPv6Interface
UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}


class ConfigError(Exception):
    """The configuration cannot be used. `problems` has one line for each reason."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


def seconds(value: object) -> float:
    """A duration such as "500ms", "2s", "1.5m" or "1h", in seconds."""
    if isinstance(value, float | int) and not isinstance(value, bool):
        raise PydanticCustomError(
            "duration", 'needs its unit, as a string: "{value}s" or "500ms"', {"value": _shown(value)}
        )
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h)", value) if isinstance(value, str) else None
    if match is None:
        raise PydanticCustomError("duration", 'is not a duration such as "500ms", "2s" or "1m"')
    duration = round(float(match[1]) * UNITS[match[2]], 6)
    if duration > LONGEST_DURATION:
        raise PydanticCustomError("duration", "is longer than a week")
    return duration


def _interface_address(value: object) -> Address:
    if isinstance(value, IPv4Interface | IPv6Interface):
        return value
    if not isinstance(value, str) or "/" not in value:
        raise PydanticCustomError("address", 'is not an address with its prefix length, such as "10.0.0.100/24"')
    try:
        address = ip_interface(value)
    except ValueError as error:
        raise PydanticCustomError("address", "is not an address: {why}", {"why": str(error)}) from None
    ip = address.ip
    if ip.is_multicast or ip.is_unspecified or ip.is_loopback or "%" in value:
        raise PydanticCustomError("address", "cannot move between hosts: use an ordinary unicast address")
    network = address.network
    if isinstance(network.network_address, IPv4Address) and network.prefixlen < 31:
        for other, what in ((network.network_address, "network"), (network.broadcast_address, "broadcast")):
            if ip == other:
                raise PydanticCustomError(
                    "address", "is the {what} address of {net}", {"what": what, "net": str(network)}
                )
    return address


def _host(value: object) -> str:
    if isinstance(value, str):
        try:
            ip = ip_address(value)
        except ValueError:
            ip = None
        if ip is not None:
            if ip.is_loopback or ip.is_unspecified or ip.is_multicast or str(ip) == "255.255.255.255":
                raise PydanticCustomError("host", "is no address of one other host")
            return str(ip)
    raise PydanticCustomError("host", 'is not an IP address such as "10.0.0.1" (a name would need a name server)')


def _broker(value: object) -> str:
    if isinstance(value, str) and value.count(",") < WAYS_MOST:
        for way in broker_ways(value):
            _way(way)
        return value
    return _way(value)


def _way(value: object) -> str:
    hint = 'is not a broker such as "mqtt://10.0.0.3:1883", or "mqtts://10.0.0.3" with TLS'
    if not isinstance(value, str) or not re.fullmatch(r"[!-~]+", value):
        raise PydanticCustomError("broker", hint)
    try:
        url = urlsplit(value)
        port = url.port
    except ValueError as error:
        raise PydanticCustomError("broker", "{hint}: {why}", {"hint": hint, "why": str(error)}) from None
    host = url.hostname or ""
    labels = host.split(".")
    if not re.fullmatch(r"[0-9A-Za-z.:-]{1,253}", host) or not all(0 < len(label) <= 63 for label in labels):
        raise PydanticCustomError("broker", hint)
    if url.scheme not in PORTS or not url.hostname or url.path.strip("/") or url.query or url.fragment or port == 0:
        raise PydanticCustomError("broker", hint)
    if url.username or url.password:
        raise PydanticCustomError("broker", "must not carry a user or password: they belong in the file security.login")
    return value


def _interface(value: object) -> str:
    if isinstance(value, str) and re.fullmatch(r"[!-.0-9;-~]{1,15}", value) and value not in (".", ".."):
        return value
    raise PydanticCustomError("interface", 'is not an interface such as "eth0" (at most 15 characters)')


def _folder(value: object) -> Path:
    if isinstance(value, str) and value.startswith("/") and value.isprintable():
        return Path(value)
    raise PydanticCustomError("folder", 'is not an absolute path such as "/etc/locum/hooks"')


Duration = Annotated[float, BeforeValidator(seconds)]
Name = Annotated[str, Field(pattern=NAME)]
Host = Annotated[str, BeforeValidator(_host)]


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class TimingSection(Section):
    beat: Duration = 0.5
    lease: Duration = 2.0


class Node(Section):
    address: Host
    """Where ICMP echo reaches it."""


class HookSection(BaseModel):
    """A ready-made hook. What else it takes is the hook's own affair: locum.hooks.ready looks at it."""

    model_config = ConfigDict(frozen=True, extra="allow")

    use: Name
    timeout: Duration | None = None
    """Instead of the service's hook_timeout."""


def _endpoint(value: object) -> str:
    if isinstance(value, str):
        host, _, port = value.rpartition(":")
        plain = host[1:-1] if host.startswith("[") and host.endswith("]") else host
        try:
            ip = ip_address(plain)
        except ValueError:
            ip = None
        if ip is not None and (ip.version == 4) == (plain == host) and port.isdecimal() and 0 < int(port) < 65536:
            return value
    raise PydanticCustomError("endpoint", 'is not an address and port such as "10.0.0.1:80" or "[fd00::1]:80"')


def _url(value: object) -> str:
    if isinstance(value, str) and re.fullmatch(r"https?://[!-~]+", value):
        try:
            parts = urlsplit(value)
            if parts.hostname and parts.port != 0:
                return value
        except ValueError:
            pass
    raise PydanticCustomError("url", 'is no URL such as "http://127.0.0.1/health"')


KINDS = ("icmp", "tcp", "http", "command", "systemd", "process", "interface", "file", "ocf")
"""Of checks."""


class CheckSection(Section):
    """One check. Exactly one of the first keys says what kind it is."""

    icmp: Annotated[str, BeforeValidator(_host)] | None = None
    tcp: Annotated[str, BeforeValidator(_endpoint)] | None = None
    http: Annotated[str, BeforeValidator(_url)] | None = None
    command: Annotated[Path, BeforeValidator(_folder)] | None = None
    systemd: Annotated[str, Field(pattern=r"^[A-Za-z0-9:_.@\\-]+\.[a-z]+$")] | None = None
    process: Annotated[str, Field(min_length=1, max_length=15, pattern=r"^[^\x00-\x1f/]+$")] | None = None
    interface: Annotated[str, BeforeValidator(_interface)] | None = None
    file: Annotated[Path, BeforeValidator(_folder)] | None = None
    ocf: Name | None = None
    """The name of one of the service's hooks that uses ocf: its `monitor`."""
    status: Annotated[list[Annotated[int, Field(ge=100, le=599)]], Field(min_length=1)] = [200]
    """http: what it may answer."""
    text: Annotated[str, Field(max_length=1_000)] = ""
    """http: what its answer must contain."""
    verify: bool = True
    """http: whether a certificate is looked at."""
    absent: bool = False
    """file: it must not be there."""
    when: Literal["always", "active"] | None = None
    """Only while the node holds the service (the default of ocf), or always."""
    interval: Duration = 2.0
    timeout: Duration = 2.0
    rise: Annotated[int, Field(ge=1, le=1_000)] = 2
    fall: Annotated[int, Field(ge=1, le=1_000)] = 3

    @property
    def kinds(self) -> list[str]:
        return [kind for kind in KINDS if getattr(self, kind) is not None]

    @property
    def kind(self) -> str:
        return self.kinds[0]

    @property
    def only_active(self) -> bool:
        return self.when == "active" or (self.when is None and self.ocf is not None)

    @property
    def apart(self) -> float:
        """Seconds by which two nodes that see the same failure, at the same interval, may differ in when it counts."""
        return self.interval * (1 + CHECKS_SPREAD + 2 * CHECKS_SPREAD * self.fall)


class Service(Section):
    addresses: Annotated[
        list[Annotated[Address, BeforeValidator(_interface_address)]], Field(min_length=1, max_length=256)
    ]
    interface: Annotated[str, BeforeValidator(_interface)]
    nodes: Annotated[list[Name], Field(min_length=1, max_length=64)]
    """In order of preference."""
    failback: Literal["manual", "auto"] = "manual"
    failback_delay: Duration = 60.0
    together_with: Name | None = None
    """It goes where this service goes."""
    apart_from: Annotated[list[Name], Field(max_length=SERVICES_MOST)] = []
    """No node has it and one of these at once."""
    watchdog: Annotated[Path, BeforeValidator(_folder)] | None = None
    """A device that resets the machine if the service is not released in time."""
    hooks_dir: Annotated[Path, BeforeValidator(_folder)] = Path("/etc/locum/hooks")
    hook_timeout: Duration = 60.0
    """Each hook gets this long."""
    hooks: Annotated[dict[Name, HookSection], Field(max_length=HOOKS_MOST)] = {}
    """Ready-made hooks, in the order of their names."""
    checks: Annotated[dict[Name, CheckSection], Field(max_length=CHECKS_MOST)] = {}
    """What this node must pass to hold the service."""


File = Annotated[Path, BeforeValidator(_folder)]


class Identity(Section):
    """What proves who one is."""

    certificate: File | None = None
    key: File | None = None
    login: File | None = None
    """A file with the one line user:password."""


class SecuritySection(Identity):
    """Of this host's agent; and of its operators, where they are somebody else."""

    ca: File | None = None
    """Who signs the brokers' certificates; the system's authorities without it."""
    operator: Identity | None = None
    signing: File | None = None
    """Keys with which messages are signed; those that are not signed then mean nothing."""
    unsigned: Literal["refuse", "accept"] = "refuse"
    """While signing is brought in: "accept"."""

    def identity(self, operator: bool) -> Identity:
        return self.operator if operator and self.operator is not None else self


class Config(Section):
    cluster: Name
    brokers: Annotated[list[Annotated[str, BeforeValidator(_broker)]], Field(min_length=1, max_length=9)]
    on_bus_loss: Literal["hold", "release"] = "hold"
    gateway: Host | None = None
    timing: TimingSection = TimingSection()
    security: SecuritySection | None = None
    nodes: Annotated[dict[Name, Node], Field(min_length=1, max_length=NODES_MOST)]
    services: Annotated[dict[Name, Service], Field(min_length=1, max_length=SERVICES_MOST)]

    _path: str = PrivateAttr("")

    @property
    def holds(self) -> bool:
        """Whether a holder whose lease is not confirmed may ask for a second opinion."""
        return self.on_bus_loss == "hold"

    @property
    def path(self) -> Path:
        """The file that it was read from."""
        return Path(self._path)

    def durations(self) -> Timing:
        return Timing(beat=self.timing.beat, lease=self.timing.lease)

    def digest(self) -> str:
        """The same on two nodes whose configurations mean the same."""
        meaning = self.model_dump(mode="json")
        security = self.security
        signs = security is not None and security.signing is not None
        # Not where its files lie.
        meaning["security"] = [signs, security.unsigned if security is not None and signs else ""]
        meaning["brokers"] = [
            [(*broker_address(way), is_secure(way)) for way in broker_ways(url)] for url in self.brokers
        ]
        return hashlib.sha256(json.dumps(meaning, sort_keys=True).encode()).hexdigest()[:12]

    def services_of(self, node: str) -> dict[str, Service]:
        return {name: service for name, service in self.services.items() if node in service.nodes}

    def followers(self, leader: str) -> list[str]:
        """The services that must be together with this one, which leads them."""
        return [name for name, service in self.services.items() if service.together_with == leader]

    def strangers(self, name: str) -> list[str]:
        """The services that must be apart from this one, whichever of the two says so."""
        return [
            other
            for other, service in self.services.items()
            if other != name and (name in service.apart_from or other in self.services[name].apart_from)
        ]

    def require_node(self, node: str) -> None:
        """Raises ConfigError unless the node exists."""
        if node not in self.nodes:
            raise ConfigError(
                [f"{self._path}: nodes: there is no node {node!r} (there are {_listed(self.nodes)}); use --node NAME"]
            )


def broker_ways(url: str) -> list[str]:
    """The URLs of a broker that is reached at several places, which its URL lists: mqtt://10.0.0.3,10.1.0.3:1884.

    It is one broker, or one cluster of brokers, and has one vote.
    """
    scheme, separator, places = url.partition("://")
    return [f"{scheme}{separator}{place}" for place in places.split(",")]


def broker_address(url: str) -> tuple[str, int]:
    """Host and port of one way to a broker."""
    parts = urlsplit(url)
    return parts.hostname or "", parts.port or PORTS[parts.scheme]


def is_secure(url: str) -> bool:
    """Whether a broker is spoken to over TLS."""
    return urlsplit(url).scheme == "mqtts"


def load(path: Path) -> Config:
    """Reads and validates the file. Raises ConfigError with every problem found."""
    try:
        with path.open("rb") as file:
            raw = file.read(FILE_MOST + 1)
        if len(raw) > FILE_MOST:
            raise ConfigError([f"{path}: larger than {FILE_MOST} bytes: this is not a configuration of locum"])
        text = raw.decode("utf-8")
    except OSError as error:
        raise ConfigError([f"{path}: cannot be read: {error.strerror or error}"]) from None
    except UnicodeDecodeError as error:
        raise ConfigError([f"{path}: byte {error.start} is not UTF-8; save the file as UTF-8"]) from None
    return parse(text, str(path))


def parse(text: str, path: str = "locum.toml") -> Config:
    """Validates the text of a configuration file; `path` is what the problems call it. Raises ConfigError."""
    try:
        data = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError, ValueError) as error:
        raise ConfigError([f"{path}: not valid TOML: {str(error) or 'nested too deeply'}"]) from None
    try:
        config = Config.model_validate(data)
    except ValidationError as error:
        raise ConfigError([f"{path}: {_line(problem)}" for problem in _worth_telling(error.errors())]) from None
    problems = [f"{path}: {problem}" for problem in _contradictions(config)]
    if problems:
        raise ConfigError(problems)
    config._path = path
    return config


def _contradictions(config: Config) -> list[str]:
    """What is wrong although every value is well formed."""
    found = []
    if len(config.brokers) % 2 == 0:
        found.append(
            f"brokers: {len(config.brokers)} of them have no better majority than {len(config.brokers) - 1}: "
            "use one, or an odd number"
        )
    places = [broker_address(way) for url in config.brokers for way in broker_ways(url)]
    found += [
        f"brokers: {host}:{port} is listed more than once; one broker has one vote"
        for host, port in sorted({place for place in places if places.count(place) > 1})
    ]
    found += _timing_contradictions(config.timing)
    if config.security is not None:
        found += _security_contradictions(config, config.security)
    owners: dict[str, str] = {}
    for name, host in config.nodes.items():
        if host.address in owners:
            found.append(f"nodes.{name}.address: {host.address} belongs to {owners[host.address]} already")
        owners.setdefault(host.address, f"nodes.{name}")
    found += [
        f"services.{name}: a node has this name too; events are told apart by it, so rename one"
        for name in config.services
        if name in config.nodes
    ]
    for name, service in config.services.items():
        where = f"services.{name}"
        for node in dict.fromkeys(service.nodes):
            if node not in config.nodes:
                found.append(
                    f"{where}.nodes: there is no node {node!r}{_closest(node, config.nodes)} "
                    f"(there are {_listed(config.nodes)})"
                )
        twice = sorted({node for node in service.nodes if service.nodes.count(node) > 1})
        found += [f"{where}.nodes: {node} is listed twice" for node in twice]
        for address in service.addresses:
            ip = str(address.ip)
            if ip in owners:
                found.append(f"{where}.addresses: {ip} belongs to {owners[ip]}; an address moves with one service")
            else:
                owners[ip] = where
        if service.hook_timeout <= 0:
            found.append(f"{where}.hook_timeout: must be more than nothing")
        found += _check_contradictions(where, service)
        if service.watchdog is not None:
            found += _watchdog_contradictions(config, where, service.watchdog)
        found += _placing_contradictions(config, name, service)
        found += [
            f"{where}.hooks.{hook}.timeout: must be more than nothing"
            for hook, section in service.hooks.items()
            if section.timeout is not None and section.timeout <= 0
        ]
    if config.gateway in owners:
        found.append(f"gateway: {config.gateway} belongs to {owners[config.gateway]}; it must be another host")
    numbers = [number for number, url in enumerate(config.brokers) for _ in broker_ways(url)]
    for number, (at, _) in zip(numbers, places, strict=True):
        where = f"brokers[{number}]"
        if owners.get(at, "").startswith("services."):
            found.append(f"{where}: {at} belongs to {owners[at]}; a broker must not move with what it decides")
        elif len(config.nodes) > 1 and (at in ("localhost", "::1") or at.startswith("127.")):
            found.append(f"{where}: {at} is another broker on every node; give the address of one machine")
    return found


def _security_contradictions(config: Config, security: SecuritySection) -> list[str]:
    found = []
    tls = any(is_secure(url) for url in config.brokers)
    if security.ca is not None and not tls:
        found.append("security.ca: no broker is reached over TLS: mqtts:// in brokers")
    for where, identity in (("security", security), ("security.operator", security.operator)):
        if identity is None:
            continue
        given = {"certificate": identity.certificate, "key": identity.key}
        missing = [key for key, path in given.items() if path is None]
        if len(missing) == 1:
            (other,) = given.keys() - set(missing)
            found.append(f"{where}.{missing[0]}: is missing: {other} is of no use without it")
        elif not missing and not tls:
            found.append(f"{where}.certificate: no broker is reached over TLS: mqtts:// in brokers")
    return found


def _watchdog_contradictions(config: Config, where: str, device: Path) -> list[str]:
    first = next(service.watchdog for service in config.services.values() if service.watchdog is not None)
    if device != first:
        return [f"{where}.watchdog: another service names {first}; a machine needs one"]
    timing = config.durations()
    if timing.watchdog_slack < 2 * timing.beat:
        return [
            f"{where}.watchdog: a lease of {timing.lease:g}s leaves {timing.watchdog_slack:.2g}s for late beats beside "
            f"the {timing.watchdog}s that the device waits: less than two beats. Make it longer, or the beat shorter"
        ]
    return []


def _placing_contradictions(config: Config, name: str, service: Service) -> list[str]:
    """Of together_with and apart_from: one service leads, and the others go where it goes."""
    found = []
    where = f"services.{name}"
    leads = service.together_with
    named = [("apart_from", other) for other in service.apart_from]
    if leads is not None:
        named.append(("together_with", leads))
    known = [one for one in config.services if one != name]
    for key, other in named:
        if other == name:
            found.append(f"{where}.{key}: that is this service itself")
        elif other not in config.services:
            found.append(
                f"{where}.{key}: there is no service {other!r}{_closest(other, known)} (there are {_listed(known)})"
            )
        elif config.services[other].together_with is not None:
            leader = config.services[other].together_with
            found.append(f"{where}.{key}: {other} goes where {leader} goes: name {leader}")
    if leads is None or found:
        return found
    missing = [node for node in config.services[leads].nodes if node not in service.nodes]
    if missing:
        found.append(f"{where}.nodes: {leads} may go to {_listed(missing)}, and {name} must be able to go with it")
    if service.apart_from:
        found.append(f"{where}.apart_from: it goes where {leads} goes: say it of {leads}")
    if service.failback == "auto":
        found.append(f"{where}.failback: it goes where {leads} goes: say it of {leads}")
    return found


def _check_contradictions(where: str, service: Service) -> list[str]:
    found = []
    for name, check in service.checks.items():
        at = f"{where}.checks.{name}"
        if len(check.kinds) != 1:
            found.append(f"{at}: needs one of {', '.join(KINDS)}" + (", not several" if check.kinds else ""))
            continue
        used: list[str] = [
            key for key in ("status", "text", "verify") if key in check.model_fields_set and check.http is None
        ]
        used += ["absent"] if "absent" in check.model_fields_set and check.file is None else []
        found += [f"{at}.{key}: means nothing for {check.kind}" for key in used]
        if check.interval < CHECK_FASTEST:
            found.append(f"{at}.interval: {check.interval:g}s is shorter than {CHECK_FASTEST:g}s")
        if check.timeout <= 0:
            found.append(f"{at}.timeout: must be more than nothing")
        if check.ocf is not None and (check.ocf not in service.hooks or service.hooks[check.ocf].use != "ocf"):
            found.append(f"{at}.ocf: no hook of this service that uses ocf is called {check.ocf!r}")
    return found


def _timing_contradictions(timing: TimingSection) -> list[str]:
    found = []
    if timing.beat < FASTEST_BEAT:
        found.append(f"timing.beat: {timing.beat:g}s is shorter than {FASTEST_BEAT:g}s")
    if timing.lease < SHORTEST_LEASE:
        found.append(
            f"timing.lease: {timing.lease:g}s is shorter than {SHORTEST_LEASE:g}s, the kernel's least lifetime"
        )
    elif timing.lease > LONGEST_LEASE:
        found.append(f"timing.lease: {timing.lease:g}s is longer than {LONGEST_LEASE:g}s")
    if timing.lease < round(FEWEST_BEATS * timing.beat, 6):
        longest = timing.lease / FEWEST_BEATS * 1000
        found.append(
            f"timing.lease: {timing.lease:g}s is too short for a beat every {timing.beat:g}s: "
            f"make it {FEWEST_BEATS * timing.beat:g}s or more, or the beat {longest:.0f}ms or less"
        )
    least = round(LIFETIME_LEAST + timing.beat, 6)
    if not found and timing.lease < least:
        found.append(
            f"timing.lease: {timing.lease:g}s leaves no whole second for the kernel at a beat every {timing.beat:g}s: "
            f"make it {least:g}s or more"
        )
    return found


def _worth_telling(problems: list[Any]) -> list[Any]:
    """All problems but those that another one explains: a key that is missing since it is misspelt."""
    unknown = [problem["loc"] for problem in problems if problem["type"] == "extra_forbidden"]

    def explained(problem: Any) -> bool:
        *section, key = problem["loc"]
        beside = [str(other[-1]) for other in unknown if list(other[:-1]) == section]
        return problem["type"] == "missing" and bool(difflib.get_close_matches(str(key), beside, n=1))

    return [problem for problem in problems if not explained(problem)][:PROBLEMS_MOST]


def _key(part: object) -> str:
    """One part of a key, in one line whatever it holds."""
    if isinstance(part, int):
        return f"[{part}]"
    text = str(part)
    return text if re.fullmatch(r"[A-Za-z0-9_.:-]{1,64}", text) else _shown(part)


def _line(problem: Any) -> str:
    """One problem of pydantic's as: key, what, what instead."""
    location = [part for part in problem["loc"] if part != "[key]"]
    key = ".".join(_key(part) for part in location).replace(".[", "[")
    kind = problem["type"]
    value = problem.get("input")
    if kind == "extra_forbidden":
        allowed = _keys_beside(location)
        if len(location) > 1 and location[-1] in Config.model_fields:
            return f"{key}: unknown key here; {location[-1]} belongs to the top of the file, before the first [section]"
        return f"{key}: unknown key{_closest(str(location[-1]), allowed)} (known here: {_listed(allowed)})"
    if kind == "missing":
        example = EXAMPLES.get(str(location[-1]))
        return f"{key}: is missing" + (f"; for example {example}" if example else "")
    if kind == "string_pattern_mismatch":
        return f"{key}: {_shown(value)} is not a name: letters, digits, '_', '-' and '.', at most 63"
    if kind == "literal_error":
        return f"{key}: {_shown(value)} is not {problem['ctx']['expected']}"
    if kind in {"duration", "address", "host", "broker", "interface", "folder", "endpoint", "url"}:
        return f"{key}: {_shown(value)} {problem['msg']}"
    return f"{key}: {problem['msg'][:1].lower()}{problem['msg'][1:]}, not {_shown(value)}"


def _keys_beside(location: list[Any]) -> list[str]:
    """The keys that the section of an unknown key does have."""
    model: type[BaseModel] = Config
    for part in location[:-1]:
        match part:
            case "timing":
                model = TimingSection
            case "security":
                model = SecuritySection
            case "operator" if model is SecuritySection:
                model = Identity
            case "nodes" if model is Config:
                model = Node
            case "services" if model is Config:
                model = Service
            case "hooks" if model is Service:
                model = HookSection
            case "checks" if model is Service:
                model = CheckSection
            case _:
                pass
    return list(model.model_fields)


def _shown(value: object) -> str:
    try:
        text = _REPR.repr(value)
    except ValueError:  # an integer of thousands of digits, which Python does not print (sys.set_int_max_str_digits)
        return "a number of thousands of digits"
    return text if len(text) <= 60 else text[:57] + "..."


def _closest(word: str, words: Any) -> str:
    near = difflib.get_close_matches(word, list(words), n=1)
    return f"; did you mean {near[0]!r}?" if near else ""


def _listed(words: Any) -> str:
    names = [str(word) for word in cast("list[str]", list(words))]
    return ", ".join(names[:12]) + (", ..." if len(names) > 12 else "")
