"""`locum secure`: everything that keeps strangers off the bus, made for the nodes and brokers of a configuration."""

import secrets
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from locum import signing
from locum.authority import PUBLIC, Authority, AuthorityError, write
from locum.config import Config, broker_address, broker_ways

OPERATOR = "@operator"
"""No node can be called that: see NAME."""
MOSQUITTO = "/etc/mosquitto/locum"
HERE = "/etc/locum/secure"


def key() -> int:
    """Prints a new key for signing, as a line for the file."""
    print(signing.new_key())
    return 0


def init(config: Config, out: Path, readers: Sequence[str]) -> int:
    """Writes it to the folder `out`; what is there already is kept, but for mosquitto.conf and acl. 1: it failed."""
    try:
        _init(config, out, readers)
    except (AuthorityError, OSError) as error:
        print(f"{out}: {error}", file=sys.stderr)
        return 1
    print(_instructions(config, out))
    return 0


def _init(config: Config, out: Path, readers: Sequence[str]) -> None:
    out.mkdir(parents=True, exist_ok=True, mode=0o700)
    authority = Authority(out / "ca", f"locum {config.cluster}")
    ca = authority.certificate.read_text()
    keys = out / "ca" / "signing.keys"
    if not keys.exists():
        write(keys, f"{signing.new_key()}\n")
    operator = out / "operator"
    authority.issue(operator / "operator.pem", operator / "operator.key", OPERATOR)
    for name in config.nodes:
        folder = out / "nodes" / name
        authority.issue(folder / "node.pem", folder / "node.key", name)
        write(folder / "ca.pem", ca, PUBLIC)
        write(folder / "signing.keys", keys.read_text())
        write(folder / "operator.pem", (operator / "operator.pem").read_text(), PUBLIC)
        write(folder / "operator.key", (operator / "operator.key").read_text())
    passwords = _passwords(out, readers, ca)
    for url in config.brokers:
        hosts = [broker_address(way)[0] for way in broker_ways(url)]
        folder = out / "brokers" / hosts[0]
        authority.issue(folder / "broker.pem", folder / "broker.key", hosts[0], hosts)
        write(folder / "ca.pem", ca, PUBLIC)
        write(folder / "acl", acl(config, [f"@{name}" for name in readers]))
        write(folder / "passwords", passwords)
        write(folder / "mosquitto.conf", template().read_text(), PUBLIC)


def template() -> Path:
    """The project's mosquitto.conf, where it is installed or in its sources."""
    package = Path(__file__).parents[1]
    installed = package / "mosquitto.conf"
    return installed if installed.exists() else package.parents[1] / "mosquitto.conf"


def acl(config: Config, readers: Sequence[str]) -> str:
    """mosquitto.conf(5), acl_file: what is not allowed here is forbidden."""
    prefix = f"locum/{config.cluster}"
    lines = [
        "# Made by `locum secure init`. A node speaks as itself; it corrects the records of nodes that are lost,",
        "# and of the services that it serves. Only operators command. Readers read.",
    ]
    for name in config.nodes:
        lines += ["", f"user {name}", f"topic read {prefix}/#", f"topic write {prefix}/beat/{name}"]
        lines += [f"topic write {prefix}/node/+"]
        lines += [f"topic write {prefix}/service/{service}" for service in config.services_of(name)]
        lines += [f"topic write {prefix}/event/+/+"]
    lines += ["", f"user {OPERATOR}", f"topic read {prefix}/#", f"topic write {prefix}/command/+"]
    lines += [f"topic write {prefix}/probe/+"]
    for name in readers:
        lines += ["", f"user {name}", f"topic read {prefix}/#"]
    return "\n".join(lines) + "\n"


def _passwords(out: Path, readers: Sequence[str], ca: str) -> str:
    """The readers' logins, as mosquitto_passwd(1) hashes them."""
    plain = out / "readers"
    for name in readers:
        if not (plain / f"{name}.login").exists():
            write(plain / f"{name}.login", f"@{name}:{secrets.token_urlsafe(24)}\n")
    if not readers:
        return ""
    write(plain / "ca.pem", ca, PUBLIC)
    if shutil.which("mosquitto_passwd") is None:
        raise AuthorityError("mosquitto_passwd is missing: install the package mosquitto")
    hashed = out / "ca" / "passwords"
    write(hashed, "".join((plain / f"{name}.login").read_text() for name in readers))
    command = ["mosquitto_passwd", "-U", str(hashed)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        text = hashed.read_text()
    finally:
        hashed.unlink(missing_ok=True)
    if done.returncode != 0 or any("$" not in line for line in text.splitlines()):
        raise AuthorityError(f"mosquitto_passwd: {done.stderr.strip() or f'exit status {done.returncode}'}")
    return text


def _instructions(config: Config, out: Path) -> str:
    hosts = [[_bracketed(broker_address(way)[0]) for way in broker_ways(url)] for url in config.brokers]
    listed = ", ".join(f'"mqtts://{",".join(some)}"' for some in hosts)
    return f"""Written to {out}. Next:
- nodes/NAME/ is for {HERE} on that node; only root, and the user of the agent, may read it
- brokers/HOST/ is for {MOSQUITTO} there, readable by the user mosquitto; mosquitto.conf for /etc/mosquitto
- readers/ has the logins of those who only read (port 8884)
- ca/ signs whatever comes later: keep it where no stranger comes, off the nodes
- in the configuration:
brokers = [{listed}]
[security]
ca = "{HERE}/ca.pem"
certificate = "{HERE}/node.pem"
key = "{HERE}/node.key"
signing = "{HERE}/signing.keys"
[security.operator]
certificate = "{HERE}/operator.pem"
key = "{HERE}/operator.key\""""


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host
