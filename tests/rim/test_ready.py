"""Ready-made hooks: what the configuration may say of them, the order in which they run, and where they are found."""

import ast
import dataclasses
import json
import math
import subprocess
import sys
import tomllib
import venv
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from locum.config import CheckSection, ConfigError, parse
from locum.hooks import Phase, declared, find, ready

HOOKS = Path(ready.__file__).parents[3] / "hooks"
BASE = """
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
hooks_dir = "{folder}"
[services.web.hooks]
"""
RIGHT = {
    "ocf": 'agent = "heartbeat:Filesystem", device = "/dev/sdb1", directory = "/srv", fstype = "ext4"',
    "systemd": 'unit = "nginx.service"',
    "fence": 'agent = "fence_dummy", nodes = { alpha = { type = "fail" }, beta = {} }',
    "sync": 'path = "/srv/www/", every = "15m"',
    "email": 'to = "root"',
    "log": 'priority = "info"',
}


def read(tmp_path: Path, *lines: str) -> ready.Config:
    path = tmp_path / "locum.toml"
    path.write_text(BASE.format(folder=tmp_path / "hooks") + "\n".join(lines) + "\n")
    return ready.read(path)


def mistakes(tmp_path: Path, *lines: str) -> list[str]:
    with pytest.raises(ConfigError) as error:
        read(tmp_path, *lines)
    return [problem.removeprefix(f"{tmp_path}/locum.toml: services.web.hooks.") for problem in error.value.problems]


def test_every_hook_of_the_folder_is_here() -> None:
    assert ready.names() == sorted(RIGHT) == sorted(path.stem for path in HOOKS.glob("*.py"))


@pytest.mark.parametrize("use", sorted(RIGHT))
def test_what_is_right_is_understood(tmp_path: Path, use: str) -> None:
    config = read(tmp_path, f'h = {{ use = "{use}", {RIGHT[use]}, timeout = "7s" }}')
    (hook,) = declared(config.services["web"])
    assert (hook.name, hook.use, hook.timeout) == ("h", use, 7.0)
    assert hook.path.is_file() and hook.phases
    code, parameters = ready.understood(config.services["web"], "h")
    assert code.__doc__ and isinstance(parameters, code.Parameters)


@pytest.mark.parametrize("use", sorted(RIGHT.keys() - {"ocf", "fence"}))
def test_a_key_that_nobody_knows_is_one_clear_line(tmp_path: Path, use: str) -> None:
    """Those left out hand all other keys to an agent, and `locum check` asks that which it knows."""
    (problem,) = mistakes(tmp_path, f'h = {{ use = "{use}", {RIGHT[use]}, nonesuch = 1 }}')
    assert problem.startswith("h.nonesuch: unknown key (known here: ")


@pytest.mark.parametrize(
    ("written", "problem"),
    [
        ('{ use = "ocv" }', "h.use: no hook is called 'ocv'; did you mean 'ocf'?"),
        ("{ }", "h.use: is missing"),
        ('{ use = "ocf" }', "h.agent: is missing"),
        ('{ use = "ocf", agent = "nginx" }', "h.agent: 'nginx' is not provider:type"),
        ('{ use = "ocf", agent = "heartbeat:nginx", phase = "Test" }', "h.phase: 'Test' is not 'PreAcq' or 'PostAcq'"),
        ('{ use = "ocf", agent = "heartbeat:nginx", a = [1] }', "h.a: [1] is neither text nor a number"),
        ('{ use = "systemd", unit = "nginx" }', "h.unit: 'nginx' is no unit such as"),
        ('{ use = "sync", path = "srv" }', "h.path: is no absolute path"),
        ('{ use = "sync", path = "/" }', "h.path: the whole file system cannot be kept in step"),
        ('{ use = "sync", path = "/srv", every = 3 }', "h.every: 3 needs its unit"),
        ('{ use = "sync", path = "/srv", evry = "3s" }', "h.evry: unknown key; did you mean 'every'?"),
        ('{ use = "fence", agent = "reboot", nodes = {} }', "h.agent: 'reboot' is no fence agent"),
        ('{ use = "email", user = "x" }', "h.password_file: goes with user"),
        ('{ use = "email", user = "x", password_file = "/x" }', "h.tls: a password is not sent in the clear"),
        ('{ use = "log", facility = "lokal0" }', "h.facility: 'lokal0' is none of"),
        ('{ use = "log", timeout = "0s" }', "h.timeout: must be more than nothing"),
        ('{ use = "log", phases = ["Test"] }', "h.phases"),
    ],
)
def test_a_mistake_is_one_clear_line(tmp_path: Path, written: str, problem: str) -> None:
    found = mistakes(tmp_path, f"h = {written}")
    assert len(found) == 1 and found[0].startswith(problem), found
    assert "\n" not in found[0]


def test_all_mistakes_are_told_at_once(tmp_path: Path) -> None:
    found = mistakes(tmp_path, 'a = { use = "ocv" }', 'b = { use = "ocf" }')
    assert [problem.partition(":")[0] for problem in found] == ["a.use", "b.agent"]


KEYS = sorted(
    {"use", "timeout", "phase", "parameters", "nonesuch", "x y", ""}
    | {field.name for use in RIGHT for field in dataclasses.fields(ready.module(use).Parameters)}
)
VALUES = st.recursive(
    st.one_of(
        st.sampled_from(
            [True, False, 0, -1, 2**70, 1.5, math.inf, math.nan, "", "x", "5s", "a:b", "/srv", "\n", "é", "0"]
        ),
        st.dates(),
        st.text(max_size=9),
    ),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS) | st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=6,
)


@given(st.sampled_from([*RIGHT, "nonesuch"]), st.dictionaries(st.sampled_from(KEYS), VALUES, max_size=5), st.booleans())
@settings(max_examples=400, deadline=None)
def test_whatever_is_written_is_understood_or_told_in_lines(use: str, given_: dict[str, Any], right: bool) -> None:
    """No traceback, no line with a control character, and a hook that is understood can be listed."""
    data = tomllib.loads(BASE.format(folder="/nonexistent"))
    written = tomllib.loads(f"h = {{ {RIGHT[use]} }}")["h"] if right and use in RIGHT else {}
    data["services"]["web"]["hooks"] = {"h": written | given_ | {"use": given_.get("use", use)}}
    try:
        config = ready.Config.model_validate(data)
    except ValidationError:
        return
    found = ready.mistakes(config)
    assert all(line.isprintable() and len(line) < 2_000 for line in found), found
    if not found:
        assert len(declared(config.services["web"])) == 1
        assert config.digest()


CHECKS = st.dictionaries(st.sampled_from([*CheckSection.model_fields, "nonesuch"]), VALUES, max_size=4)


@given(CHECKS)
@settings(max_examples=300, deadline=None)
def test_whatever_is_written_of_a_check_too(given_: dict[str, Any]) -> None:
    lines = "".join(f"{key} = {toml(value)}\n" for key, value in given_.items())
    text = BASE.format(folder="/nonexistent").replace("[services.web.hooks]", "[services.web.checks.x]") + lines
    try:
        parse(text)
    except ConfigError as error:
        assert all(line.isprintable() and len(line) < 2_000 for line in error.problems), error.problems


def toml(value: Any) -> str:
    """A value as TOML has it."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=True)
    if isinstance(value, list):
        return "[" + ", ".join(toml(one) for one in value) + "]"
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{json.dumps(key)} = {toml(one)}" for key, one in value.items()) + " }"
    return str(value)


def test_the_order_with_the_folder(tmp_path: Path) -> None:
    """Declared ones in the order of their names, whatever the file's; before the folder's, and after them, reversed."""
    lines = [f'"{name}" = {{ use = "systemd", unit = "{name}.service" }}' for name in ("20_b", "10_a", "100_c")]
    service = read(tmp_path, *lines).services["web"]
    folder = tmp_path / "hooks" / "web"
    folder.mkdir(parents=True)
    for name in ("PreAcq_10_own", "PreRel_10_own"):
        (folder / name).write_text("#!/bin/sh\n")
        (folder / name).chmod(0o755)

    def order(phase: Phase) -> list[str]:
        return [hook.name for hook in find(service.hooks_dir, "web", ["10.0.0.100/24"], phase, declared(service)).hooks]

    assert order(Phase.PreAcq) == ["100_c", "10_a", "20_b", "PreAcq_10_own"]
    assert order(Phase.PreRel) == ["PreRel_10_own", "20_b", "10_a", "100_c"]
    assert order(Phase.PostAcq) == []


def test_what_is_imported_by_the_agent_is_light() -> None:
    """Their tops import the standard library only."""
    for path in HOOKS.glob("*.py"):
        for node in ast.parse(path.read_text()).body:
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [str(node.module)] if isinstance(node, ast.ImportFrom) else []
            assert {name.partition(".")[0] for name in names} <= sys.stdlib_module_names, path


def test_they_are_found_where_the_project_is_installed(tmp_path: Path) -> None:
    """Not only in the source tree: from a wheel, in an environment that knows nothing of the tree."""
    top = HOOKS.parent
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(tmp_path), str(top)]
    subprocess.run(build, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    # With the packages that this environment has, but not this source tree.
    venv.create(tmp_path / "env", with_pip=False)
    site = next((tmp_path / "env" / "lib").glob("python*/site-packages"))
    subprocess.run([sys.executable, "-m", "zipfile", "-e", str(wheel), str(site)], check=True)
    ours = [path for path in sys.path if path.endswith("site-packages")]
    script = (
        "import sys; sys.path[:0] = [sys.argv[1]]; sys.path += sys.argv[2:]\n"
        "from locum.hooks import ready; print(ready.folder()); print(*ready.names())"
    )
    python = str(tmp_path / "env" / "bin" / "python")
    said = subprocess.run(
        [python, "-I", "-S", "-c", script, str(site), *ours], check=True, capture_output=True, text=True, cwd="/"
    ).stdout.splitlines()
    assert said == [str(site / "locum" / "ready"), " ".join(sorted(RIGHT))]
