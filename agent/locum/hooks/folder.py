"""Which hooks there are, and in which order they run.

A hook lies in `<hooks_dir>/<service>/` or `<hooks_dir>/<address>/` (the address without its prefix length, IPv6 in
its compressed form) and its name starts with the phase's. The rules:

- In a folder: the order of `LC_ALL=C ls`, the order of the names' bytes.
- On the way up (Test, PreAcq, PostAcq) the service's folder comes first, then each address's, in the service's order.
  On the way down (PreRel, PostRel) the addresses' folders in reverse, then the service's: what was done last is
  undone first.
- A hook in an address's folder runs for that address; one in the service's folder runs once, with the first address:
  a mount for a service of two addresses must not be tried twice.
- Hooks that the configuration declares (ready.py) come before all of these on the way up, and after them, the last one
  first, on the way down.
- What was meant to run and must not (others can write it, its folder cannot be read) stays in the list as *refused*:
  it fails its phase when its turn comes. A takeover must not go on as if nobody had wanted that mount.
- Python files are looked at with `ast`, never imported: nothing of a hook runs in the agent.
"""

import ast
import itertools
import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from ipaddress import ip_address, ip_interface
from pathlib import Path

from locum.aside import aside
from locum.hooks.context import ON_THE_WAY, Phase
from locum.hooks.ready import Declared
from locum.hooks.startable import trouble
from locum.hooks.text import one_line

ENTRIES_MAX = 1_000
"""A folder with more entries than this is no folder of hooks: it is refused."""
SOURCE_MAX_BYTES = 256 * 1_024
"""A hook coroutine's file may be this long: parsing holds the interpreter, and with it the beats."""
LOOK_SECONDS = 5.0

_LEFTOVER_ENDS = ("~", ".bak", ".orig", ".swp")
_LEFTOVER_PARTS = (".dpkg-", ".rpm")


class Kind(StrEnum):
    executable = "executable"
    coroutine = "coroutine"
    ready = "ready-made"


@dataclass(frozen=True, slots=True)
class Hook:
    """One run: a file and the address for which it runs, with its prefix length as in the configuration."""

    path: Path
    phase: Phase
    address: str
    kind: Kind = Kind.executable
    refused: str = ""
    """Why it must not run, to be read after the path; "" if it may."""
    declared: Declared | None = None
    """Of a ready-made hook: what the configuration says of it."""

    @property
    def name(self) -> str:
        """What people call it: its file's name, or its name in the configuration."""
        return self.declared.name if self.declared else self.path.name

    @property
    def title(self) -> str:
        """What it is called in lines of the log: its path, or its name and use."""
        return f"{self.declared.name} ({self.declared.use})" if self.declared else one_line(self.path)


@dataclass(frozen=True, slots=True)
class Problem:
    """What a user should mend. `text` is the whole line: where, what, and what instead."""

    path: Path
    text: str


@dataclass(frozen=True, slots=True)
class Found:
    hooks: list[Hook] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)

    def add_problem(self, path: Path, text: str) -> None:
        """Add "<path> <text>", once."""
        problem = Problem(path, f"{one_line(path)} {text}")
        if problem not in self.problems:
            self.problems.append(problem)


def find(
    hooks_dir: str | Path, service: str, addresses: Sequence[str], phase: Phase, declared: Sequence[Declared] = ()
) -> Found:
    """The hooks of one phase, in the order in which they run, and what is wrong with what lies there.

    `declared`, in their order: they come first on the way up, and last, the other way round, on the way down.

    `addresses` are the service's, such as "10.0.0.100/24", in its order, at least one. It reads files: in an event
    loop use `look`. Raises ValueError for a service or an address that cannot name a folder.
    """
    found = Found()
    names = [_folder_name(address) for address in addresses]
    if not names or "/" in service or service in ("", ".", ".."):
        raise ValueError(f"service {service!r} with addresses {list(addresses)}: cannot be looked up")
    places = list(zip(names, addresses, strict=True))
    ready = _ready(declared, phase, addresses[0])
    if not phase.is_on_the_way_down:
        found.hooks.extend(ready)
    # A service named like one of its addresses has one folder, not two.
    own = [] if service in names else [(service, addresses[0])]
    for name, address in [*reversed(places), *own] if phase.is_on_the_way_down else [*own, *places]:
        _search(Path(hooks_dir) / name, phase, address, found)
    if phase.is_on_the_way_down:
        found.hooks.extend(ready)
    return found


async def look(
    hooks_dir: str | Path,
    service: str,
    addresses: Sequence[str],
    phase: Phase,
    declared: Sequence[Declared] = (),
    *,
    timeout: float = LOOK_SECONDS,
) -> Found:
    """`find`, in a thread. A folder that does not answer within `timeout` seconds is a refused hook, and a problem."""
    try:
        return await aside(lambda: find(hooks_dir, service, addresses, phase, declared), timeout=timeout)
    except TimeoutError as error:
        found = Found(_ready(declared, phase, addresses[0]))
        text = f"could not be read ({error}): is its disk well?"
        # On the way up it stops what follows; on the way down the ready-made ones need not suffer for it.
        found.hooks.insert(
            0 if phase.is_on_the_way_down else len(found.hooks),
            Hook(Path(hooks_dir), phase, addresses[0], refused=text),
        )
        found.add_problem(Path(hooks_dir), text)
        return found


def problems(hooks_dir: str | Path, service: str, addresses: Sequence[str]) -> list[str]:
    """Every problem of one service's hooks, one line each, for `locum check`. Reads files, changes none."""
    root = Path(hooks_dir)
    everything = Found()
    for phase in ON_THE_WAY:
        for problem in find(root, service, addresses, phase).problems:
            if problem not in everything.problems:
                everything.problems.append(problem)
    names = [_folder_name(address) for address in addresses]
    for name in _names(root):
        right = _other_spelling(name, names)
        if right:
            everything.add_problem(root / name, f"is not looked in: this address is spelt {right} here, rename it")
    for folder in dict.fromkeys((service, *names)):
        for name in _names(root / folder):
            near = next((p for p in ON_THE_WAY if name.lower().startswith(p.lower())), None)
            if near is not None and not name.startswith(near):
                path = root / folder / name
                everything.add_problem(path, f"is not run: its name must start with {near}, in just these letters")
    return [problem.text for problem in everything.problems]


def _ready(declared: Sequence[Declared], phase: Phase, address: str) -> list[Hook]:
    """The ready-made hooks of the phase, in the order in which they run."""
    hooks = [Hook(hook.path, phase, address, Kind.ready, declared=hook) for hook in declared if phase in hook.phases]
    return hooks[::-1] if phase.is_on_the_way_down else hooks


def _search(folder: Path, phase: Phase, address: str, found: Found) -> None:
    """Add what one folder holds for the phase."""
    try:
        # Names as bytes: so they sort as `LC_ALL=C ls` sorts them, whatever their encoding.
        with os.scandir(os.fsencode(folder)) as entries:
            names = [entry.name for entry in itertools.islice(entries, ENTRIES_MAX + 1)]
    except FileNotFoundError:
        return
    except OSError as error:
        text = f"cannot be read: {error.strerror}; if it is to hold no hooks, remove it"
        found.hooks.append(Hook(folder, phase, address, refused=text))
        found.add_problem(folder, text)
        return
    if len(names) > ENTRIES_MAX:
        text = f"has more than {ENTRIES_MAX} entries: keep only hooks here"
        found.hooks.append(Hook(folder, phase, address, refused=text))
        found.add_problem(folder, text)
        return
    writable = ""
    for place in (folder.parent, folder):
        unsafe = _unsafe(place)
        if unsafe:
            found.add_problem(place, f"{unsafe}; until then no hook in it is run")
            writable = f"is refused: its folder {one_line(place)} {unsafe}"
    for name in sorted(names):
        if name.startswith(phase.encode()):
            _judge(folder / os.fsdecode(name), phase, address, writable, found)


def _judge(path: Path, phase: Phase, address: str, folder_refused: str, found: Found) -> None:
    """Decide on one file whose name is a phase's."""
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        if path.is_symlink():
            found.add_problem(path, "points to nothing and so is not run: mend the link, or delete it")
        return
    except OSError as error:
        _refuse(path, phase, address, f"cannot be looked at: {error.strerror}", found)
        return
    executable = bool(mode & 0o111)
    if path.name.endswith(_LEFTOVER_ENDS) or any(part in path.name for part in _LEFTOVER_PARTS):
        if executable and stat.S_ISREG(mode):
            found.add_problem(path, "looks like an editor's or a package's leftover and is not run: delete it")
        return
    if not stat.S_ISREG(mode):
        what = "a folder" if stat.S_ISDIR(mode) else "no regular file"
        found.add_problem(path, f"is {what} and so is not run: move it away")
        return
    if executable:
        kind = Kind.executable
        wrong = trouble(path)  # a hint for whoever checks; whether it starts is for the kernel to say
        if wrong and wrong.startswith("has no #!") and path.suffix == ".py":
            wrong += ", or chmod -x it if it is a hook coroutine"
        if not wrong and not os.access(path, os.X_OK):
            wrong = "cannot be executed by this user, or lies on a filesystem mounted noexec: it will fail"
        if wrong:
            found.add_problem(path, wrong)
    elif path.suffix == ".py":
        kind = Kind.coroutine
        try:
            wrong = _coroutine_trouble(path)
        except OSError as error:
            _refuse(path, phase, address, f"cannot be read: {error.strerror}", found)
            return
        if wrong:
            found.add_problem(path, wrong)
            return
    else:
        found.add_problem(path, "is not executable and so is not run: chmod +x it, or move it away")
        return
    for place in (path, path.resolve().parent):
        unsafe = _unsafe(place)
        if unsafe and place == path:
            _refuse(path, phase, address, f"is refused: it {unsafe}", found)
            return
        if unsafe and not folder_refused:
            _refuse(path, phase, address, f"is refused: its real folder {one_line(place)} {unsafe}", found)
            return
    found.hooks.append(Hook(path, phase, address, kind, folder_refused))


def _refuse(path: Path, phase: Phase, address: str, text: str, found: Found) -> None:
    found.hooks.append(Hook(path, phase, address, refused=text))
    found.add_problem(path, text)


def _coroutine_trouble(path: Path) -> str:
    """ "" if the file defines `async def hook(context)`, else what is wrong. Raises OSError if it cannot be read."""
    with path.open("rb") as file:
        source = file.read(SOURCE_MAX_BYTES + 1)
    if len(source) > SOURCE_MAX_BYTES:
        return f"is longer than {SOURCE_MAX_BYTES} bytes and so is not run: import the rest of it"
    try:
        tree = ast.parse(source)
    except SyntaxError as error:
        return f"line {error.lineno} is no Python and so is not run: {one_line(error.msg)}"
    except (ValueError, RecursionError, MemoryError) as error:
        return f"is no Python and so is not run: {one_line(error, most=200)}"
    for node in tree.body:
        if isinstance(node, ast.AsyncFunctionDef) and node.name == "hook":
            return ""
        if isinstance(node, ast.FunctionDef) and node.name == "hook":
            return f"line {node.lineno} defines a plain hook and so is not run: make it `async def hook(context)`"
    return "is not executable and defines no `async def hook(context)`, and so is not run: add it, or chmod +x it"


def _unsafe(path: Path) -> str:
    """ "" if only root and this user can change it, else what to mend, to be read after the path."""
    try:
        status = path.stat()
    except OSError:
        return ""  # gone meanwhile
    if status.st_mode & stat.S_IWOTH:
        return "can be written by everyone: chmod o-w it"
    if status.st_uid not in (0, os.geteuid()):
        return f"belongs to user {status.st_uid}, who could change it: chown it to root"
    return ""


def _folder_name(address: str) -> str:
    """The folder of an address: "10.0.0.100/24" -> "10.0.0.100", "2001:DB8:0::1/64" -> "2001:db8::1"."""
    return ip_interface(address).ip.compressed


def _other_spelling(name: str, names: Sequence[str]) -> str:
    """The right name if `name` is one of our addresses in other letters, else ""."""
    try:
        right = ip_address(name).compressed
    except ValueError:
        return ""
    return right if right in names and right != name else ""


def _names(folder: Path) -> Iterator[str]:
    """The entries of a folder, in order, none if it cannot be read (`find` has said so)."""
    try:
        with os.scandir(folder) as entries:
            yield from sorted(entry.name for entry in itertools.islice(entries, ENTRIES_MAX))
    except OSError:
        return
