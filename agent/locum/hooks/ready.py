"""Ready-made hooks: the files of the project's folder `hooks/`, declared in the configuration and found by name.

    [services.web.hooks]
    "10_volume" = { use = "ocf", agent = "heartbeat:Filesystem", device = "LABEL=web", directory = "/srv/web" }

A ready-made hook is one Python file, and this is what it defines:

- its docstring: what it does; the first line is shown in lists.
- `Parameters`, a frozen dataclass: what can be written beside `use`. Its annotations are checked when the configuration
  is read. A field with the metadata DURATION is written as "15m" and arrives as seconds. `__post_init__` may raise
  ValueError("key: what is wrong").
- `OTHERS`, if there is one: the name of the field, a dict of strings, that takes all keys that are not fields.
- `phases(parameters)`: the phases in which it is to be run. `Standby` is one: see standby.py.
- `BESIDE`, if it is True: nobody waits for it. A mail server that hangs must not keep a service from its next holder.
- `async def hook(context)`: does it, in a process of its own like every hook. `context.parameters` is a Parameters.
- `commands(parameters, phase)`, if there is one: what it runs, for `locum hooks`.
- `problems(parameters)`, if there is one: what `locum check` should say of this host, a list of lines.

The file is imported by the agent, for all but `hook`: it is ours, and its top imports only what is light.
"""

import dataclasses
import difflib
import functools
import importlib.util
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ConfigDict, TypeAdapter, ValidationError

from locum.config import Config, ConfigError, Service, load, seconds
from locum.hooks.context import Phase
from locum.hooks.text import one_line

DURATION = "duration"


def folder() -> Path:
    """Where the ready-made hooks are: in the package as it is installed, else beside it in the source tree."""
    package = Path(__file__).parents[1]
    installed = package / "ready"
    return installed if installed.is_dir() else package.parents[1] / "hooks"


@dataclass(frozen=True, slots=True)
class Declared:
    """One ready-made hook of one service, ready to be run."""

    name: str
    """As in the configuration: it decides the order."""
    use: str
    path: Path
    parameters: str
    """What it is told, as JSON in one line."""
    phases: frozenset[Phase]
    timeout: float
    """Seconds."""
    beside: bool = False
    every: float = 0.0
    """Seconds between two runs of the phase Standby."""


def names() -> list[str]:
    """What can be written after `use`."""
    try:
        return sorted(path.stem for path in folder().glob("*.py"))
    except OSError:
        return []


@functools.cache
def module(use: str) -> Any:
    """The file of that name, imported. Raises KeyError if there is none."""
    if use not in names():
        raise KeyError(use)
    name = f"locum_ready_{use}"
    spec = importlib.util.spec_from_file_location(name, folder() / f"{use}.py")
    assert spec is not None and spec.loader is not None
    found = importlib.util.module_from_spec(spec)
    sys.modules[name] = found  # dataclasses look themselves up there
    spec.loader.exec_module(found)
    found.Parameters.__pydantic_config__ = ConfigDict(extra="forbid")
    return found


def read(path: Path) -> Config:
    """The configuration, with what it says of ready-made hooks looked at too. Raises ConfigError."""
    config = load(path)
    problems = [f"{path}: {problem}" for problem in mistakes(config)]
    if problems:
        raise ConfigError(problems)
    return config


def mistakes(config: Config) -> list[str]:
    """What is wrong with the declarations of ready-made hooks: the key, and what instead."""
    found = []
    for name, service in config.services.items():
        for hook in service.hooks:
            where = f"services.{name}.hooks.{hook}"
            try:
                _understand(service, hook)
            except _Mistakes as error:
                found += [f"{where}{problem}" for problem in error.problems]
    return found


def declared(service: Service) -> list[Declared]:
    """A service's ready-made hooks, in the order of their names (bytes, as `LC_ALL=C ls` has it)."""
    return [_understand(service, name)[0] for name in sorted(service.hooks, key=str.encode)]


def problems(service: Service) -> list[str]:
    """What of this host would keep the service's ready-made hooks from working, for `locum check`."""
    found = []
    for name in sorted(service.hooks, key=str.encode):
        hook, parameters = _understand(service, name)
        look = getattr(module(hook.use), "problems", None)
        if look is not None:
            found += [f"hook {name} ({hook.use}): {one_line(problem)}" for problem in look(parameters)]
    return found


def understood(service: Service, name: str) -> tuple[Any, Any]:
    """The module and the parameters of a declaration in which nothing is wrong."""
    hook, parameters = _understand(service, name)
    return module(hook.use), parameters


class _Mistakes(Exception):
    """What is wrong with one declaration, each to be read after its key."""

    def __init__(self, *problems: str) -> None:
        super().__init__(*problems)
        self.problems = problems


def _understand(service: Service, name: str) -> tuple[Declared, Any]:
    """The hook, and its parameters as an instance of its Parameters. Raises _Mistakes."""
    section = service.hooks[name]
    try:
        code = module(section.use)
    except KeyError:
        near = difflib.get_close_matches(section.use, names(), n=1)
        meant = f"; did you mean {near[0]!r}?" if near else ""
        raise _Mistakes(f".use: no hook is called {section.use!r}{meant} (there are {', '.join(names())})") from None
    given = dict(section.model_extra or {})
    fields = {field.name: field for field in dataclasses.fields(code.Parameters)}
    wrong = []
    for key, field in fields.items():
        if field.metadata.get(DURATION) and key in given:
            try:
                given[key] = seconds(given[key])
            except ValueError as error:
                wrong.append(f".{key}: {given[key]!r} {error}")
    if wrong:
        raise _Mistakes(*wrong)
    others = getattr(code, "OTHERS", None)
    if others is not None:
        own = {key: given.pop(key) for key in list(given) if key not in fields}
        taken = given.get(others)
        given[others] = own | (taken if isinstance(taken, dict) else {})
        for key, value in given[others].items():
            if not isinstance(value, str | int | float):
                raise _Mistakes(f".{_key(key)}: {one_line(repr(value), most=60)} is neither text nor a number")
            given[others][key] = str(value).lower() if isinstance(value, bool) else str(value)
    try:
        parameters = TypeAdapter(code.Parameters).validate_python(given)
    except ValidationError as error:
        raise _Mistakes(*(_line(problem, [*fields, "timeout"]) for problem in error.errors())) from None
    hook = Declared(
        name=name,
        use=section.use,
        path=folder() / f"{section.use}.py",
        parameters=json.dumps(dataclasses.asdict(parameters), ensure_ascii=True),
        phases=frozenset(Phase(phase) for phase in code.phases(parameters)),
        timeout=section.timeout or service.hook_timeout,
        beside=bool(getattr(code, "BESIDE", False)),
        every=float(getattr(parameters, "every", 0.0)),
    )
    return hook, parameters


def _line(problem: Any, known: list[str]) -> str:
    """One problem of pydantic's: the key, what, and what instead."""
    where = "".join(f"[{part}]" if isinstance(part, int) else f".{_key(part)}" for part in problem["loc"])
    kind, value = problem["type"], one_line(repr(problem.get("input")), most=60)
    if kind in ("unexpected_keyword_argument", "extra_forbidden"):
        near = difflib.get_close_matches(str(problem["loc"][-1]), known, n=1)
        meant = f"; did you mean {near[0]!r}?" if near else ""
        return f"{where}: unknown key{meant} (known here: {', '.join(known)})"
    if kind in ("missing", "missing_argument"):
        return f"{where}: is missing"
    if kind == "literal_error":
        return f"{where}: {value} is not {problem['ctx']['expected']}"
    if kind == "value_error":  # of __post_init__, which names its key
        key, _, what = str(problem["ctx"]["error"]).partition(": ")
        return f"{where}.{key}: {what}"
    return f"{where}: {problem['msg'][:1].lower()}{problem['msg'][1:]}, not {value}"


def _key(part: object) -> str:
    return one_line(part, most=64)
