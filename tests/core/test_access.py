"""Files that prove who one is: what is refused, and how that reads."""

from pathlib import Path

import pytest

from locum import access
from locum.access import AccessError
from locum.config import Config, ConfigError, parse

REST = """
[nodes.alpha]
address = "10.0.0.1"
[services.web]
addresses = ["10.0.0.100/24"]
interface = "eth0"
nodes = ["alpha"]
"""


def config(security: str, brokers: str = "mqtts://10.0.0.3") -> Config:
    return parse(f'cluster = "shop"\nbrokers = ["{brokers}"]\n{security}\n{REST}')


def secret(path: Path, text: str, mode: int = 0o600) -> Path:
    path.write_text(text)
    path.chmod(mode)
    return path


@pytest.mark.parametrize(
    ("security", "brokers", "problem"),
    [
        ('[security]\nca = "/ca.pem"', "mqtt://10.0.0.3", "security.ca: no broker is reached over TLS"),
        ('[security]\nkey = "/k"', "mqtts://10.0.0.3", "security.certificate: is missing: key is of no use without it"),
        (
            '[security]\n[security.operator]\ncertificate = "/c"',
            "mqtts://10.0.0.3",
            "security.operator.key: is missing",
        ),
        (
            '[security]\nkey = "/k"\ncertificate = "/c"',
            "mqtt://10.0.0.3",
            "security.certificate: no broker is reached over TLS",
        ),
        ('[security]\nlogin = "here"', "mqtt://10.0.0.3", "security.login: 'here' is not an absolute path"),
        ('[security]\nsignin = "/k"', "mqtt://10.0.0.3", "security.signin: unknown key; did you mean 'signing'?"),
        (
            '[security.operator]\nca = "/k"',
            "mqtt://10.0.0.3",
            "security.operator.ca: unknown key (known here: certificate, key, login)",
        ),
        ('[security]\nunsigned = "yes"', "mqtt://10.0.0.3", "security.unsigned: 'yes' is not 'refuse' or 'accept'"),
        ("", "mqtts://a:b@10.0.0.3", "they belong in the file security.login"),
        ("", "https://10.0.0.3", 'or "mqtts://10.0.0.3" with TLS'),
    ],
)
def test_what_the_configuration_says_wrong(security: str, brokers: str, problem: str) -> None:
    with pytest.raises(ConfigError) as told:
        config(security, brokers)
    assert problem in str(told.value)


def test_nothing_is_asked_of_a_plain_broker() -> None:
    assert access.access(config("", "mqtt://10.0.0.3"), "mqtt://10.0.0.3") == access.Access()


def test_user_and_password_come_from_a_file_that_others_cannot_read(tmp_path: Path) -> None:
    path = secret(tmp_path / "login", "alpha:a:secret\n")
    found = config(f'[security]\nlogin = "{path}"', "mqtt://10.0.0.3")
    proof = access.access(found, "mqtt://10.0.0.3")
    assert (proof.user, proof.password, proof.tls) == ("alpha", "a:secret", None)
    path.chmod(0o644)
    with pytest.raises(ConfigError) as told:
        access.require(found)
    assert str(told.value) == f"{path}: others may read it (mode 0644): chmod o= {path}"
    for text in ("", "alpha", ":x", "alpha:", "alpha:x\nbeta:y", "x" * 2000):
        with pytest.raises(AccessError, match=r"login: (must hold one line|larger than)"):
            access.login(secret(path, text))
    path.write_bytes(b"\xff:\xff")
    with pytest.raises(AccessError, match="is not text"):
        access.login(path)
    path.unlink()
    with pytest.raises(AccessError, match="cannot be read: No such file"):
        access.login(path)


def test_an_operator_is_somebody_else_where_the_file_says_so(tmp_path: Path) -> None:
    node, operator = secret(tmp_path / "node", "alpha:1"), secret(tmp_path / "operator", "ops:2")
    both = config(f'[security]\nlogin = "{node}"\n[security.operator]\nlogin = "{operator}"')
    assert access.access(both, "mqtts://10.0.0.3", operator=True).user == "ops"
    assert access.access(both, "mqtts://10.0.0.3").user == "alpha"
    one = config(f'[security]\nlogin = "{node}"')
    assert access.access(one, "mqtts://10.0.0.3", operator=True).user == "alpha"


def test_certificates_that_are_none(tmp_path: Path) -> None:
    junk = secret(tmp_path / "junk", "no certificate")
    with pytest.raises(AccessError, match="junk: no certificates of an authority"):
        access.access(config(f'[security]\nca = "{junk}"'), "mqtts://10.0.0.3")
    found = config(f'[security]\ncertificate = "{junk}"\nkey = "{junk}"')
    with pytest.raises(AccessError, match=f"{junk}: cannot be used with"):
        access.access(found, "mqtts://10.0.0.3")


def test_every_file_that_is_wrong_is_named(tmp_path: Path) -> None:
    found = config(f'[security]\nlogin = "{tmp_path}/no"\nsigning = "{secret(tmp_path / "keys", "x")}"')
    with pytest.raises(ConfigError) as told:
        access.require(found)
    assert len(told.value.problems) == 2
