"""Hooks as a user meets them: which run, in which order, with what, and that none of them costs a beat or stays behind.

Everything that runs a hook runs on both event loops. "Nothing stays behind" is asked of /proc: each test's hooks carry
a marker of their own in their environment, which their children inherit.
"""

import asyncio
import contextlib
import errno
import gc
import importlib.util
import json
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import uvloop

from locum.aside import THREADS_MAX, aside
from locum.hooks import Found, Hook, HookContext, HookResult, Phase, PhaseResult, find, look, problems, run_phase
from locum.hooks import folder as folder_module
from locum.hooks import runner as runner_module
from locum.hooks.context import ON_THE_WAY
from locum.hooks.output import CUT_MARK, LINE_MAX_BYTES, LINES_MAX, Lines

EXAMPLES = Path(__file__).parents[2] / "hooks" / "examples" / "macosx"
uvloop.new_event_loop().close()  # its first loop opens descriptors that stay for the life of the process
ADDRESS = "10.0.0.100/24"
is_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")

type_of_loop = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}


@dataclass
class Bench:
    """A hooks folder, a way to run a phase of it, and what came of that."""

    root: Path
    loop: str = "asyncio"
    marker: str = ""
    service: str = "web"
    addresses: tuple[str, ...] = (ADDRESS,)
    lines: list[tuple[str, str]] = field(default_factory=list)
    told: list[HookResult] = field(default_factory=list)

    def add(self, name: str, text: str | bytes, *, mode: int = 0o755, folder: str = "10.0.0.100") -> Path:
        path = self.root / folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        path.chmod(mode)
        return path

    def sh(self, name: str, script: str = "", *, folder: str = "10.0.0.100") -> Path:
        return self.add(name, f"#!/bin/sh\n{script}\n", folder=folder)

    def py(self, name: str, body: str) -> Path:
        """A hook coroutine with this body."""
        indented = "".join(f"    {line}\n" for line in body.splitlines())
        return self.add(name, f"import asyncio, time\n\nasync def hook(context):\n{indented}", mode=0o644)

    def find(self, phase: Phase = Phase.PreAcq) -> Found:
        return find(self.root, self.service, self.addresses, phase)

    def context_for(self, hook: Hook) -> HookContext:
        return HookContext(
            phase=hook.phase,
            service=self.service,
            address=hook.address,
            addresses=self.addresses,
            interface="eth0",
            node="alpha",
            peer="beta",
            epoch=7,
            reason=self.marker,
        )

    async def phase(
        self, phase: Phase = Phase.PreAcq, *, timeout: float = 10.0, stop: bool = True, hooks: list[Hook] | None = None
    ) -> PhaseResult:
        return await run_phase(
            self.find(phase).hooks if hooks is None else hooks,
            self.context_for,
            timeout=timeout,
            on_line=lambda hook, text: self.lines.append((hook.path.name, text)),
            on_result=self.told.append,
            stop_at_first_failure=stop,
        )

    def do(self, work: Coroutine[Any, Any, Any]) -> Any:
        with asyncio.Runner(loop_factory=type_of_loop[self.loop]) as runner:
            return runner.run(work)

    def run(self, phase: Phase = Phase.PreAcq, **options: Any) -> PhaseResult:
        result: PhaseResult = self.do(self.phase(phase, **options))
        return result

    def run_one(self, **options: Any) -> HookResult:
        (result,) = self.run(**options).results
        return result

    @property
    def output(self) -> list[str]:
        return [text for _, text in self.lines]

    def alive(self) -> list[int]:
        """The processes that carry the marker. A zombie carries nothing: it acts no more."""
        mark = f"LOCUM_REASON={self.marker}\0".encode()
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                with contextlib.suppress(OSError):
                    if mark in (entry / "environ").read_bytes():
                        found.append(int(entry.name))
        return found

    def expect_nobody(self, within: float = 1.0) -> None:
        """No process of the hooks is left. A killed orphan takes a moment to be gone."""
        assert soon(lambda: not self.alive(), within), f"left behind: {self.alive()}"


def soon(condition: Callable[[], object], within: float = 5.0) -> bool:
    ends_at = time.monotonic() + within
    while not condition():
        if time.monotonic() > ends_at:
            return False
        time.sleep(0.005)
    return True


def zombies() -> list[str]:
    """Our own children that nobody has reaped."""
    states = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                fields = (entry / "stat").read_text().rsplit(")", 1)[1].split()
                if int(fields[1]) == os.getpid() and fields[0] == "Z":
                    states.append(entry.name)
    return states


@pytest.fixture
def bench(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Bench]:
    """A bench on asyncio's own loop; whatever its hooks left is ended with it."""
    bench = Bench(tmp_path / "hooks", marker=f"{request.node.name}-{os.getpid()}-{time.monotonic_ns()}")
    bench.root.mkdir()
    descriptors = len(list(Path("/proc/self/fd").iterdir()))
    yield bench
    for process in bench.alive():
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)
    if len(list(Path("/proc/self/fd").iterdir())) > descriptors:
        gc.collect()  # what only waits to be collected is no leak
    assert len(list(Path("/proc/self/fd").iterdir())) <= descriptors, "descriptors leaked"
    assert not zombies()


@pytest.fixture(params=["asyncio", "uvloop"])
def both(request: pytest.FixtureRequest, bench: Bench) -> Bench:
    """The bench, on each of the two loops."""
    bench.loop = request.param
    return bench


@pytest.fixture
def short_grace(monkeypatch: pytest.MonkeyPatch) -> float:
    monkeypatch.setattr(runner_module, "GRACE_SECONDS", 0.3)
    return 0.3


# Which hooks there are, and their order


def test_order_is_that_of_ls(bench: Bench) -> None:
    names = ["10", "_10_b", "_9", "-a", ".sh", "", "B", "a", " space", "_é", "_e", "ß", "~x", "10.0:1", "_10", "_10_a"]
    for name in names:
        bench.sh(f"PreAcq{name}")
        bench.sh(f"PostAcq{name}")
    raw = os.fsencode(bench.root / "10.0.0.100") + b"/PreAcq_\xff\xe9"
    os.close(os.open(raw, os.O_CREAT | os.O_WRONLY, 0o755))  # a name that is no UTF-8
    listing = subprocess.run(
        ["ls", str(bench.root / "10.0.0.100")], env={"LC_ALL": "C", "PATH": os.environ["PATH"]}, capture_output=True
    ).stdout
    expected = [name for name in listing.split(b"\n") if name.startswith(b"PreAcq")]
    assert [os.fsencode(hook.path.name) for hook in bench.find().hooks] == expected
    assert len(expected) == len(names) + 1


def test_each_phase_has_its_own_hooks(bench: Bench) -> None:
    for phase in ON_THE_WAY:
        bench.sh(f"{phase}_10")
    bench.sh("README")
    for phase in ON_THE_WAY:
        assert [hook.path.name for hook in bench.find(phase).hooks] == [f"{phase}_10"]


def test_what_was_done_last_is_undone_first(bench: Bench) -> None:
    bench.addresses = ("10.0.0.100/24", "2001:DB8:0:0::5/64")
    for phase in ("PreAcq", "PreRel"):
        for folder in ("web", "10.0.0.100", "2001:db8::5"):
            bench.sh(f"{phase}_1", folder=folder)
            bench.sh(f"{phase}_2", folder=folder)

    def order(phase: Phase) -> list[tuple[str, str, str]]:
        return [(hook.path.parent.name, hook.path.name[-1], hook.address) for hook in bench.find(phase).hooks]

    service, first, second = ("web", ADDRESS), ("10.0.0.100", ADDRESS), ("2001:db8::5", "2001:DB8:0:0::5/64")
    up = [(folder, n, address) for folder, address in (service, first, second) for n in "12"]
    down = [(folder, n, address) for folder, address in (second, first, service) for n in "12"]
    assert order(Phase.PreAcq) == up
    assert order(Phase.PreRel) == down


def test_addresses_may_share_a_folder(bench: Bench) -> None:
    bench.addresses = ("10.0.0.100/24", "10.0.0.101/24")
    bench.sh("PostAcq")
    (bench.root / "10.0.0.101").symlink_to("10.0.0.100")
    assert [(h.path.parent.name, h.address) for h in bench.find(Phase.PostAcq).hooks] == [
        ("10.0.0.100", "10.0.0.100/24"),
        ("10.0.0.101", "10.0.0.101/24"),
    ]


def test_a_service_named_like_its_address_has_one_folder(bench: Bench) -> None:
    bench.service = "10.0.0.100"
    bench.sh("PreAcq")
    assert len(bench.find().hooks) == 1


def test_a_missing_folder_is_no_problem(bench: Bench) -> None:
    assert bench.find() == Found([], [])
    assert problems(bench.root / "nowhere", "web", [ADDRESS]) == []


def test_a_name_cannot_lead_out_of_the_folder(bench: Bench) -> None:
    for service in ("..", "a/b", ""):
        with pytest.raises(ValueError, match="cannot be looked up"):
            find(bench.root, service, [ADDRESS], Phase.Test)


COROUTINE = "async def hook(context):\n    pass\n"


@pytest.mark.parametrize(
    ("name", "text", "mode", "says"),
    [
        ("PreAcq_x", "#!/bin/sh\n", 0o644, "is not executable and so is not run: chmod +x it, or move it away"),
        ("PreAcq.py", "x = 1\n", 0o644, "defines no `async def hook(context)`"),
        ("PreAcq.py", "def hook(context): pass\n", 0o644, "line 1 defines a plain hook"),
        ("PreAcq.py", "\n\nasync def hook(:\n", 0o644, "line 3 is no Python and so is not run"),
        ("PreAcq.py", "x = '\0'\n", 0o644, "is no Python and so is not run"),
        ("PreAcq.py", COROUTINE + "#" * 300_000, 0o644, "is longer than 262144 bytes"),
        ("PreAcq_x~", "#!/bin/sh\n", 0o755, "leftover and is not run: delete it"),
        ("PreAcq_x.bak", "#!/bin/sh\n", 0o755, "leftover and is not run: delete it"),
        ("PreAcq_x.dpkg-old", "#!/bin/sh\n", 0o755, "leftover and is not run: delete it"),
        ("PreAcq_x.rpmsave", "#!/bin/sh\n", 0o755, "leftover and is not run: delete it"),
    ],
)
def test_what_is_not_run_is_a_problem(bench: Bench, name: str, text: str, mode: int, says: str) -> None:
    path = bench.add(name, text, mode=mode)
    found = bench.find()
    assert found.hooks == []
    (problem,) = found.problems
    assert problem.text.startswith(f"{path} ")
    assert says in problem.text
    assert "\n" not in problem.text
    assert problems(bench.root, "web", [ADDRESS]) == [problem.text]


@pytest.mark.parametrize("name", ["PreAcq_x~", "PreAcq_x.swp", "PreAcq_x.orig"])
def test_leftovers_that_could_not_run_are_ignored(bench: Bench, name: str) -> None:
    bench.add(name, "#!/bin/sh\n", mode=0o644)
    assert bench.find() == Found([], [])


def test_only_files_run(bench: Bench) -> None:
    (bench.root / "10.0.0.100" / "PreAcq.d").mkdir(parents=True)
    (bench.root / "10.0.0.100" / "PreAcq_link").symlink_to("nowhere")
    os.mkfifo(bench.root / "10.0.0.100" / "PreAcq_pipe", 0o755)
    target = bench.add("real", "#!/bin/sh\n", folder="elsewhere")
    (bench.root / "10.0.0.100" / "PreAcq_ok").symlink_to(target)
    found = bench.find()
    assert [hook.path.name for hook in found.hooks] == ["PreAcq_ok"]
    assert [problem.text.split("/")[-1] for problem in found.problems] == [
        "PreAcq.d is a folder and so is not run: move it away",
        "PreAcq_link points to nothing and so is not run: mend the link, or delete it",
        "PreAcq_pipe is no regular file and so is not run: move it away",
    ]


def test_check_sees_what_would_be_overlooked(bench: Bench) -> None:
    bench.addresses = ("2001:db8::5/64",)
    bench.sh("preacq_10", folder="web")
    bench.sh("PreAcq", folder="2001:DB8::0:5")
    (bench.root / "2001:db8::6").mkdir()  # another service's
    spelt, misnamed = problems(bench.root, "web", bench.addresses)
    assert spelt.endswith("2001:DB8::0:5 is not looked in: this address is spelt 2001:db8::5 here, rename it")
    assert misnamed.endswith("preacq_10 is not run: its name must start with PreAcq, in just these letters")


def test_a_problem_is_one_line_whatever_the_name(bench: Bench) -> None:
    bench.add("PreAcq_a\nb\x1b[31m", "", mode=0o644)
    (problem,) = bench.find().problems
    assert "PreAcq_a\\x0ab\\x1b[31m is not executable" in problem.text


# What must not run fails its phase


def refused_file(bench: Bench) -> str:
    bench.sh("PreAcq_2", "echo ran").chmod(0o757)
    return "is refused: it can be written by everyone: chmod o-w it"


def refused_folder(bench: Bench) -> str:
    bench.sh("PreAcq_2", "echo ran").parent.chmod(0o777)
    return "can be written by everyone: chmod o-w it"


def refused_root(bench: Bench) -> str:
    bench.sh("PreAcq_2", "echo ran")
    bench.root.chmod(0o777)
    return f"is refused: its folder {bench.root} can be written by everyone"


def refused_target(bench: Bench) -> str:
    target = bench.add("script", "#!/bin/sh\necho ran\n", folder="open")
    target.parent.chmod(0o777)
    bench.sh("PreAcq_1").unlink()
    (bench.root / "10.0.0.100" / "PreAcq_2").symlink_to(target)
    return f"is refused: its real folder {target.parent} can be written by everyone"


def refused_owner(bench: Bench) -> str:
    os.chown(bench.sh("PreAcq_2", "echo ran"), 12_345, -1)
    return "is refused: it belongs to user 12345, who could change it: chown it to root"


def no_folder(bench: Bench) -> str:
    (bench.root / "10.0.0.100").write_text("")
    return "cannot be read: Not a directory"


def too_many(bench: Bench) -> str:
    bench.sh("PreAcq_2", "echo ran")
    for number in range(folder_module.ENTRIES_MAX):
        (bench.root / "10.0.0.100" / f"x{number}").touch()
    return "has more than 1000 entries"


@pytest.mark.parametrize(
    "prepare",
    [
        refused_file,
        refused_folder,
        refused_root,
        refused_target,
        pytest.param(refused_owner, marks=is_root),
        no_folder,
        too_many,
    ],
)
def test_refused_is_failed(bench: Bench, prepare: Callable[[Bench], str]) -> None:
    says = prepare(bench)
    result = bench.run()
    assert not result.ok
    assert says in result.results[-1].detail
    assert result.results[-1].status is None
    assert bench.lines == []  # nothing of it ran
    assert len(problems(bench.root, "web", [ADDRESS])) == 1


def test_a_folder_that_does_not_answer_fails_the_phase(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    disk_answers = threading.Event()
    monkeypatch.setattr(folder_module, "find", lambda *_: disk_answers.wait(10))
    found = bench.do(look(bench.root, "web", [ADDRESS], Phase.PreAcq, timeout=0.05))
    disk_answers.set()
    (hook,) = found.hooks
    assert hook.refused == "could not be read (no answer within 0.05 s): is its disk well?"
    assert found.problems[0].text == f"{bench.root} {hook.refused}"


def test_look_is_find(both: Bench) -> None:
    both.sh("PreAcq_1")
    assert both.do(look(both.root, "web", [ADDRESS], Phase.PreAcq)) == both.find()


def test_hanging_threads_are_bounded(both: Bench) -> None:
    assert soon(lambda: not aside_threads())
    disk_answers = threading.Event()

    async def hang() -> list[str]:
        said = []
        for _ in range(THREADS_MAX + 1):
            with pytest.raises(TimeoutError) as caught:
                await aside(lambda: disk_answers.wait(10), timeout=0.01)
            said.append(str(caught.value))
        return said

    *hung, refused = both.do(hang())
    assert set(hung) == {"no answer within 0.01 s"}
    assert refused == f"{THREADS_MAX} threads wait for a disk or a name server already"
    disk_answers.set()
    assert soon(lambda: not aside_threads())
    assert both.do(aside(lambda: "free again", timeout=1)) == "free again"


def aside_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "locum-aside"]


# What a hook is told


def test_environment_is_clean_and_complete(both: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MQTT_PASSWORD", "secret")
    monkeypatch.setenv("NOTIFY_SOCKET", "/run/systemd/notify")
    monkeypatch.setenv("HOME", "/home/agent")
    both.addresses = (ADDRESS, "2001:db8::5/64")
    both.sh("PreAcq", "cat /proc/$$/environ")
    assert both.run_one().ok
    seen = dict(pair.split("=", 1) for pair in both.output[0].split("\\x00") if pair)
    assert seen == {
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "LANG": "C.UTF-8",
        "HOME": "/home/agent",
        "LOCUM_PHASE": "PreAcq",
        "LOCUM_SERVICE": "web",
        "LOCUM_ADDRESS": ADDRESS,
        "LOCUM_ADDRESSES": f"{ADDRESS} 2001:db8::5/64",
        "LOCUM_INTERFACE": "eth0",
        "LOCUM_NODE": "alpha",
        "LOCUM_PEER": "beta",
        "LOCUM_EPOCH": "7",
        "LOCUM_REASON": both.marker,
        "LOCUM_UNHEARD": "",
        "LOCUM_HOSTS": "",
    }


def test_a_reason_is_one_bounded_line() -> None:
    context = HookContext(Phase.Test, "web", ADDRESS, (ADDRESS,), "eth0", "alpha", "", 1, "a\nb\0c\ud800" + "x" * 9_999)
    environment = context.environment()
    assert environment["LOCUM_REASON"].startswith("a b c x")
    assert len(environment["LOCUM_REASON"]) == 1_000
    assert environment["LOCUM_PEER"] == ""


def test_a_process_starts_from_a_clean_slate(both: Bench) -> None:
    both.sh("PreAcq", "pwd; umask; cat; readlink /proc/self/fd/0; grep SigIgn /proc/$$/status; cat /proc/$$/stat")
    reading, writing = os.pipe()  # a stdin of ours that never ends
    stdin_before, umask_before = os.dup(0), os.umask(0o077)
    try:
        os.dup2(reading, 0)
        assert both.run_one(timeout=3).ok
    finally:
        os.umask(umask_before)
        os.dup2(stdin_before, 0)
        for descriptor in (reading, writing, stdin_before):
            os.close(descriptor)
    cwd, umask, stdin, ignored, stat = both.output
    assert (cwd, umask, stdin) == ("/", "0022", "/dev/null")
    assert int(ignored.split()[1], 16) & (1 << (signal.SIGPIPE - 1)) == 0
    pid, _, _, _, group, session, *_ = stat.split()
    assert pid == group == session


def test_hooks_run_one_after_the_other(both: Bench) -> None:
    both.sh("PreAcq_1", "echo one; sleep 0.1; echo two")
    both.py("PreAcq_2.py", "context.log('three')")
    both.sh("PreAcq_3", "echo four")
    result = both.run()
    assert result.ok
    assert both.lines == [
        ("PreAcq_1", "one"),
        ("PreAcq_1", "two"),
        ("PreAcq_2.py", "three"),
        ("PreAcq_3", "four"),
    ]
    assert [r.path.name for r in result.results] == ["PreAcq_1", "PreAcq_2.py", "PreAcq_3"]
    assert both.told == list(result.results)
    assert result.results[0].seconds >= 0.1


def test_a_phase_without_hooks_succeeds(both: Bench) -> None:
    assert both.run() == PhaseResult() and both.run().ok


# What goes wrong


def test_a_phase_stops_at_its_first_failure_if_told_to(both: Bench) -> None:
    both.sh("PreAcq_1", "echo no such disk >&2; echo; exit 3")
    both.sh("PreAcq_2", "echo two")
    stopped = both.run(stop=True)
    assert both.output == ["no such disk", ""]
    assert [hook.path.name for hook in stopped.skipped] == ["PreAcq_2"]
    went_on = both.run(stop=False)
    assert both.output[-1] == "two"
    assert not stopped.ok and not went_on.ok
    assert [r.ok for r in went_on.results] == [False, True]
    (failed,) = went_on.failed
    assert (failed.status, failed.signal, failed.timed_out) == (3, None, False)
    assert failed.line == f"{failed.path} for {ADDRESS}: failed with exit status 3: no such disk"


def test_a_hook_ended_by_a_signal_has_failed(both: Bench) -> None:
    both.sh("PreAcq", "kill -SEGV $$")
    result = both.run_one()
    assert (result.ok, result.status, result.signal) == (False, None, signal.SIGSEGV)
    assert result.detail == "was ended by signal 11 (Segmentation fault)"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("#!/no/such/shell\n", "it needs the interpreter /no/such/shell, which does not exist"),
        ("#!/bin/sh\r\nexit 0\r\n", "a #! line that ends in a carriage return: save it with Unix line ends"),
        ("#!/etc/passwd\n", "it needs the interpreter /etc/passwd, which is not executable"),
        ("#!\n", "it names no interpreter"),
        ("echo hello\n", "it has no #! line: put one first, such as #!/bin/sh"),
        ("", "it has no #! line"),
        (b"\x7fELF" + bytes(60), "it is a program for another kind of machine, or damaged"),
    ],
)
def test_what_cannot_start_says_why(both: Bench, text: str | bytes, says: str) -> None:
    both.add("PreAcq", text)
    result = both.run_one()
    assert not result.ok
    assert result.detail.startswith("was not started: ")
    assert says in result.detail
    assert (result.status, result.signal, result.timed_out) == (None, None, False)
    if not isinstance(text, bytes):  # and `locum check` knew
        (problem,) = both.find().problems
        assert says.removeprefix("it ") in problem.text


def test_an_interpreter_that_would_never_answer_is_not_waited_for(bench: Bench) -> None:
    os.mkfifo(bench.root / "fifo", 0o755)
    bench.add("PreAcq", f"#!{bench.root}/fifo\n")
    assert bench.run_one(timeout=2).detail.startswith("was not started: permission denied")


def test_a_file_open_for_writing_or_gone_is_a_result(both: Bench) -> None:
    busy, gone = both.sh("PreAcq_1"), both.sh("PreAcq_2")
    hooks = both.find().hooks
    gone.unlink()
    with busy.open("a"):
        first, second = both.run(hooks=hooks, stop=False).results
    assert first.detail == "was not started: somebody still has it open for writing"
    assert second.detail == "was not started: it does not exist any more"


def test_no_process_to_be_had_is_a_result(both: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    both.sh("PreAcq", "echo ran")

    def refuse(*_: object, **__: object) -> None:
        raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    monkeypatch.setattr(subprocess, "Popen", refuse)
    says = "was not started: its guard, a /bin/sh, cannot be had: Resource temporarily unavailable"
    assert both.run_one().detail == says


def test_a_lost_exit_status_is_no_success(bench: Bench) -> None:
    bench.sh("PreAcq", "exit 1")
    before = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        result = bench.run_one()
    finally:
        signal.signal(signal.SIGCHLD, before)
    assert not result.ok
    assert "its exit status is lost" in result.detail


# Output


def test_output_is_cut_into_bounded_lines(both: Bench) -> None:
    write = "sys.stdout.buffer.write"
    script = [
        f"#!{sys.executable} -u",
        "import sys",
        f"{write}(b'a\\r\\n' + b'x' * 9_000 + b'\\n')",
        f"{write}(b'\\xff\\x1b[2J\\xc3\\xa9\\nno newline')",
    ]
    both.add("PreAcq", "\n".join(script))
    result = both.run_one()
    assert result.ok
    assert both.output == ["a", "x" * LINE_MAX_BYTES + CUT_MARK, "\ufffd\\x1b[2Jé", "no newline"]
    assert (result.lines, result.dropped_lines) == (4, 0)


def test_lines_beyond_the_bound_are_counted(both: Bench) -> None:
    both.sh("PreAcq", "seq 1 50000; echo the last words; exit 1")
    result = both.run_one()
    assert both.output == [str(number) for number in range(1, LINES_MAX + 1)]
    assert (result.lines, result.dropped_lines) == (LINES_MAX, 50_001 - LINES_MAX)
    assert result.detail == ("failed with exit status 1: the last words; 49001 lines of its output are not in the log")


def test_lines_do_not_depend_on_the_chunks() -> None:
    text = b"".join(b"%d %s\n" % (n, b"y" * (n * 7 % 5_000)) for n in range(1_300)) + b"end"

    def cut(size: int) -> tuple[list[str], int, int, str]:
        lines = Lines()
        got = [line for at in range(0, len(text), size) for line in lines.feed(text[at : at + size])]
        got += lines.finish()
        return got, lines.given, lines.dropped, lines.last

    whole = cut(len(text))
    assert whole[1:] == (LINES_MAX, 301, "end")
    for size in (13, 4_096, 65_536):
        assert cut(size) == whole


# Timeouts, and what is left behind

DEAF = "trap '' TERM INT HUP\n"


def test_a_timeout_ends_the_whole_group(both: Bench) -> None:
    both.sh("PreAcq", "sleep 60 & sleep 60 & (sleep 60; true) & echo begun; wait")
    result = both.run_one(timeout=0.3)
    assert (result.ok, result.timed_out, result.status, result.signal) == (False, True, None, signal.SIGTERM)
    assert result.detail == "ran longer than 0.3 s and was ended: begun"
    assert 0.3 <= result.seconds < 1.5
    both.expect_nobody()


def test_a_hook_has_a_grace_period_to_tidy_up(both: Bench) -> None:
    both.sh("PreAcq", "trap 'echo tidied; exit 0' TERM; sleep 60 & wait")
    result = both.run_one(timeout=0.3)
    assert both.output == ["tidied"]
    assert (result.ok, result.timed_out, result.status) == (False, True, 0)
    both.expect_nobody()


def test_a_hook_that_ignores_sigterm_is_killed(both: Bench, short_grace: float) -> None:
    both.sh("PreAcq", DEAF + "sleep 60 & while :; do sleep 0.05; done")
    result = both.run_one(timeout=0.2)
    assert (result.timed_out, result.signal) == (True, signal.SIGKILL)
    assert result.detail == "ran longer than 0.2 s and ignored SIGTERM and was killed"
    assert 0.2 + short_grace <= result.seconds < 2
    both.expect_nobody()


def test_a_leader_that_obeys_does_not_save_children_that_do_not(both: Bench) -> None:
    both.sh("PreAcq", "(trap '' TERM; echo begun; sleep 60; sleep 60) & wait")
    assert both.run_one(timeout=0.3).signal == signal.SIGTERM
    both.expect_nobody()


def test_what_does_not_die_is_given_up(
    both: Bench, short_grace: float, monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
) -> None:
    both.sh("PreAcq", "exec sleep 60")
    monkeypatch.setattr(runner_module, "KILL_SECONDS", 0.2)
    monkeypatch.setattr(os, "killpg", lambda *_: None)  # a process that waits in the kernel is not moved by it either
    result = both.run_one(timeout=0.1)
    assert not result.ok and result.timed_out
    assert result.detail.startswith("does not die of SIGKILL")
    assert result.seconds < 2
    (survivor,) = both.alive()
    os.kill(survivor, signal.SIGKILL)
    assert soon(zombies)
    gc.collect()
    subprocess.run(["true"])  # the next start reaps it
    assert not zombies()


def test_a_failed_hook_leaves_nothing(both: Bench) -> None:
    both.sh("PreAcq", "sleep 60 & exit 1")
    result = both.run_one()
    assert result.detail == "failed with exit status 1"
    assert result.seconds < 0.2  # what held its output is dead: nothing to wait for
    both.expect_nobody()


def test_what_a_hook_started_lives_on_if_it_succeeded(both: Bench) -> None:
    both.sh("PreAcq", "sleep 60 >/dev/null 2>&1 & echo started")
    result = both.run_one()
    assert (result.ok, result.detail) == (True, "succeeded")
    assert result.seconds < 0.2
    time.sleep(0.05)
    assert len(both.alive()) == 1


def test_a_child_that_keeps_the_output_open_delays_nobody(both: Bench) -> None:
    both.sh("PreAcq", "sleep 60 & echo started")
    result = both.run_one()
    assert result.ok and "holds its output" in result.detail
    assert both.output == ["started"]
    assert 0.2 <= result.seconds < 1
    assert len(both.alive()) == 1


def test_a_child_that_floods_the_output_delays_nobody(both: Bench) -> None:
    both.sh("PreAcq", "yes & sleep 0.05")
    assert both.run_one().seconds < 1
    both.expect_nobody()  # the pipe is closed: SIGPIPE


def test_a_session_of_its_own_is_left_alone(both: Bench) -> None:
    both.sh("PreAcq", "setsid sleep 60 >/dev/null 2>&1 & sleep 0.1; exit 1")
    assert not both.run_one().ok
    time.sleep(0.05)
    assert len(both.alive()) == 1


@pytest.mark.parametrize("body", ["sleep 60 & sleep 60 & echo begun; while :; do sleep 1; done", "yes begun", ""])
def test_cancelling_kills_at_once(both: Bench, body: str) -> None:
    """The lease is lost: no SIGTERM, no grace."""
    if body:
        both.sh("PreAcq", DEAF + body)
    else:
        both.py("PreAcq.py", "context.log('begun')\ntime.sleep(60)")

    async def lose_the_lease() -> float:
        running = asyncio.create_task(both.phase(timeout=30))
        while not both.lines:  # noqa: ASYNC110 - the lines come from another process
            await asyncio.sleep(0.005)
        began_at = time.monotonic()
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        return time.monotonic() - began_at

    assert both.do(lose_the_lease()) < 0.5
    both.expect_nobody(0.2)
    assert both.told == []


def test_an_error_in_the_callers_own_code_leaves_nothing(both: Bench) -> None:
    both.sh("PreAcq", "echo begun; sleep 60")

    def fail(*_: object) -> None:
        raise RuntimeError("ours")

    with pytest.raises(RuntimeError, match="ours"):
        both.do(
            run_phase(both.find().hooks, both.context_for, on_line=fail, on_result=fail, stop_at_first_failure=True)
        )
    both.expect_nobody()


AGENT = """
import asyncio, sys
from locum.hooks import HookContext, Phase, find, run_phase
root, marker = sys.argv[1:]
context = HookContext(Phase.PreAcq, "web", "10.0.0.100/24", ("10.0.0.100/24",), "eth0", "alpha", "", 1, marker)
asyncio.run(run_phase(find(root, "web", context.addresses, Phase.PreAcq).hooks, lambda hook: context,
    on_line=lambda hook, text: print(text, flush=True), on_result=print, stop_at_first_failure=True))
"""


def guards(agent: int) -> list[int]:
    """The guard processes of an agent."""
    children = Path(f"/proc/{agent}/task/{agent}/children").read_text().split()
    return [int(pid) for pid in children if b"locum-hook-guard" in Path(f"/proc/{pid}/cmdline").read_bytes()]


def test_a_killed_agent_takes_its_hook_with_it(bench: Bench) -> None:
    bench.sh("PreAcq_1", "setsid sleep 60 >/dev/null 2>&1 &")
    bench.sh("PreAcq_2", DEAF + "(sleep 60; echo never) & echo begun; while :; do sleep 60; done")
    agent = subprocess.Popen([sys.executable, "-c", AGENT, str(bench.root), bench.marker], stdout=subprocess.PIPE)
    assert agent.stdout is not None
    while b"begun" not in agent.stdout.readline():
        assert agent.poll() is None
    assert soon(lambda: len(bench.alive()) >= 4)  # the daemon, the hook, its subshell, their sleeps
    (guard,) = guards(agent.pid)
    os.kill(guard, signal.SIGTERM)  # as a service manager does that stops everything of a unit
    agent.kill()
    agent.wait()
    agent.stdout.close()
    assert soon(lambda: len(bench.alive()) == 1, 1), "only the daemon of its own session may live on"


def test_a_flood_does_not_put_off_the_timeout(both: Bench, short_grace: float) -> None:
    both.sh("PreAcq", DEAF + "cat /dev/zero & exec cat /dev/zero")
    result = both.run_one(timeout=0.2)
    assert (result.timed_out, result.signal) == (True, signal.SIGKILL)
    assert result.seconds < 2
    both.expect_nobody()


def test_a_slow_log_gives_others_their_turn(both: Bench) -> None:
    """1,000 lines may come in one chunk; the log may take its time for each."""
    both.sh("PreAcq", "seq 1 1000")
    late: list[float] = []

    async def tick() -> None:
        while True:
            due_at = time.monotonic() + 0.01
            await asyncio.sleep(0.01)
            late.append(time.monotonic() - due_at)

    async def together() -> PhaseResult:
        ticker = asyncio.create_task(tick())
        try:
            return await run_phase(
                both.find().hooks,
                both.context_for,
                on_line=lambda *_: time.sleep(0.0005),
                on_result=both.told.append,
                stop_at_first_failure=True,
            )
        finally:
            ticker.cancel()

    assert both.do(together()).ok
    assert both.told[0].seconds > 0.5
    assert max(late) < 0.25


# Hook coroutines


def test_a_coroutine_is_told_what_an_executable_is_told(both: Bench) -> None:
    both.addresses = (ADDRESS, "2001:db8::5/64")
    names = "phase service address addresses interface node peer epoch reason"
    both.py("PreAcq.py", f"import json\ncontext.log(json.dumps([getattr(context, n) for n in '{names}'.split()]))")
    assert both.run_one().ok
    seen = json.loads(both.output[0])
    assert seen == ["PreAcq", "web", ADDRESS, list(both.addresses), "eth0", "alpha", "beta", 7, both.marker]
    assert [path.name for path in (both.root / "10.0.0.100").iterdir()] == ["PreAcq.py"]  # and no __pycache__


@pytest.mark.parametrize(
    ("body", "status", "detail"),
    [
        ("await asyncio.sleep(0)", 0, "succeeded"),
        ("return True", 0, "succeeded"),
        ("return False", 1, "failed with exit status 1: hook(context) returned False"),
        ("raise ValueError('no such disk')", 1, "failed with exit status 1: ValueError: no such disk"),
        ("raise SystemExit(3)", 3, "failed with exit status 3"),
        ("async with asyncio.timeout(0.01):\n    await asyncio.sleep(9)", 1, "failed with exit status 1: TimeoutError"),
    ],
)
def test_how_a_coroutine_succeeds_and_fails(bench: Bench, body: str, status: int, detail: str) -> None:
    bench.loop = "uvloop"
    bench.py("PreAcq.py", body)
    result = bench.run_one()
    assert (result.status, result.detail, result.ok) == (status, detail, status == 0)


def test_a_coroutine_that_raises_shows_where(both: Bench) -> None:
    path = both.add(
        "PreAcq.py", "async def deeper():\n    return 1 / 0\n\n" + COROUTINE.replace("pass", "await deeper()")
    )
    path.chmod(0o644)
    assert both.run_one().detail.endswith("ZeroDivisionError: division by zero")
    assert both.output[0] == "Traceback (most recent call last):"
    assert [line for line in both.output if "File" in line] == [
        f'  File "{path}", line 5, in hook',
        f'  File "{path}", line 2, in deeper',
    ]


def test_a_coroutine_file_that_fails_to_load_has_failed(both: Bench) -> None:
    both.add("PreAcq.py", "import no_such_module\n" + COROUTINE, mode=0o644)
    assert both.run_one().detail.endswith("ModuleNotFoundError: No module named 'no_such_module'")


@pytest.mark.parametrize("body", ["time.sleep(60)", "while True: pass", "await asyncio.sleep(60)"])
def test_a_coroutine_cannot_outlast_its_timeout(bench: Bench, short_grace: float, body: str) -> None:
    bench.loop = "uvloop"
    bench.py("PreAcq.py", f"context.log('begun')\ntry:\n    {body}\nfinally:\n    context.log('tidied')")
    result = bench.run_one(timeout=0.5)
    assert result.timed_out and not result.ok
    assert bench.output[0] == "begun"
    assert ("tidied" in bench.output) == ("asyncio" in body)  # only what awaits can be asked
    bench.expect_nobody()


def test_the_child_needs_nothing_but_its_python(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """No virtual environment is active, and nothing of the agent is imported: it starts fast."""
    monkeypatch.setenv("PYTHONPATH", "/nowhere")
    monkeypatch.setenv("PYTHONHOME", "/nowhere")
    bench.py(
        "PreAcq.py", "import sys\ncontext.log([n for n in sys.modules if n.split('.')[0] in ('locum', 'pydantic')])"
    )
    assert bench.run_one().ok
    assert bench.output == ["[]"]


# A hook never delays a beat

BEAT_SECONDS = 0.5
TICK_SECONDS = 0.002


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def test_a_hook_never_delays_a_beat(
    both: Bench, short_grace: float, capsys: pytest.CaptureFixture[str], record_property: Callable[[str, object], None]
) -> None:
    """A 2 ms ticker shares the loop with hooks that do what they can against it."""
    both.sh("PreAcq_10_lines", "head -c 100000000 /dev/zero | tr '\\0' '\\n'")
    both.sh("PreAcq_11_one_line", "head -c 100000000 /dev/zero")
    both.sh("PreAcq_20_forks", "i=0; while [ $i -lt 200 ]; do /bin/true & i=$((i+1)); done; wait")
    both.sh("PreAcq_30_deaf", DEAF + "sleep 60 & while :; do sleep 0.05; done")
    both.py("PreAcq_40_raises.py", "raise RuntimeError('no')")
    both.py("PreAcq_50_blocks.py", "time.sleep(60)")
    both.py("PreAcq_60_spins.py", "while True: print('x' * 1000)")
    late: list[float] = []
    resident: list[int] = []

    async def tick() -> None:
        while True:
            due_at = time.monotonic() + TICK_SECONDS  # not the loop's time: uvloop's is that of its last turn
            await asyncio.sleep(TICK_SECONDS)
            late.append(time.monotonic() - due_at)
            if len(late) % 5 == 0:
                resident.append(resident_bytes())

    async def together() -> PhaseResult:
        ticker = asyncio.create_task(tick())
        try:
            return await both.phase(timeout=0.5, stop=False)
        finally:
            ticker.cancel()

    result: PhaseResult = both.do(together())
    grown_mb = (max(resident) - resident[0]) / 1e6
    late.sort()
    worst_ms, usual_ms = late[-1] * 1_000, late[len(late) * 99 // 100] * 1_000
    with capsys.disabled():
        print(f"\n  {both.loop}: {len(late)} ticks, 99 of 100 within {usual_ms:.1f} ms, worst {worst_ms:.1f} ms late; "
              f"memory +{grown_mb:.1f} MB; 100 MB of newlines in {result.results[0].seconds:.2f} s")  # fmt: skip
    record_property("worst_ms", worst_ms)
    assert len(late) > 200
    assert late[-1] < BEAT_SECONDS / 2
    assert grown_mb < 20
    by_name = {r.path.name.split("_", 2)[2]: r for r in result.results}
    assert by_name["forks"].ok
    # 100 MB may take longer than this timeout on a busy machine; then it is the timeout that ended them.
    for name in ("lines", "one_line"):
        assert by_name[name].ok or by_name[name].timed_out
    assert by_name["lines"].dropped_lines > 1_000_000
    assert "RuntimeError: no" in by_name["raises.py"].detail
    assert by_name["deaf"].signal == signal.SIGKILL
    assert by_name["blocks.py"].timed_out and by_name["spins.py"].timed_out
    both.expect_nobody()


# The examples


def test_the_examples_are_found() -> None:
    found = {phase: find(EXAMPLES, "shop", [ADDRESS], phase) for phase in ON_THE_WAY}
    assert {phase: [hook.path.name for hook in found[phase].hooks] for phase in ON_THE_WAY} == {
        Phase.Test: ["Test"],
        Phase.PreAcq: ["PreAcq_10_mount", "PreAcq_20_fence.py"],
        Phase.PostAcq: ["PostAcq_10_start", "PostAcq_20_answers.py"],
        Phase.PreRel: ["PreRel_10_stop", "PreRel_20_unmount"],
        Phase.PostRel: ["PostRel_10_log"],
    }
    assert [
        problem for phase in ON_THE_WAY for problem in found[phase].problems if "is refused" not in problem.text
    ] == []
    for path in (EXAMPLES / "10.0.0.100").iterdir():
        assert path.name in (EXAMPLES / "README.md").read_text()


STUB = '#!/bin/sh\necho "${0##*/} $*" >> "$STUB_LOG"\n[ "${0##*/}" != mountpoint ] || [ -e "$STUB_MOUNTED" ]\n'


def test_the_example_scripts_call_what_they_promise(bench: Bench, tmp_path: Path) -> None:
    """A whole turn, with stand-ins for the commands that would touch this host."""
    for command in ("mountpoint", "mkdir", "mount", "umount", "sync", "systemctl", "logger"):
        bench.add(command, STUB, folder="stubs")
    log, mounted = tmp_path / "log", tmp_path / "mounted"

    def call(name: str) -> list[str]:
        log.write_text("")
        hook = Hook(EXAMPLES / "10.0.0.100" / name, Phase.PreAcq, ADDRESS)
        environment = replace(bench.context_for(hook), reason="switchover").environment()
        environment |= {"STUB_LOG": str(log), "STUB_MOUNTED": str(mounted)}
        environment["PATH"] = f"{bench.root / 'stubs'}:{environment['PATH']}"
        subprocess.run([hook.path], env=environment, check=True, capture_output=True)
        return log.read_text().splitlines()

    device = "/dev/disk/by-label/shop"
    assert call("Test") == []
    assert call("PreAcq_10_mount")[1:] == ["mkdir -p /srv/shop", f"mount -o noatime {device} /srv/shop"]
    assert call("PreRel_20_unmount") == ["mountpoint -q /srv/shop"]
    mounted.touch()
    assert call("PreAcq_10_mount") == ["mountpoint -q /srv/shop"]  # a second time does no harm
    assert call("PostAcq_10_start") == ["systemctl start shop.service"]
    assert call("PreRel_10_stop") == ["systemctl stop shop.service"]
    assert call("PreRel_20_unmount")[1:] == ["sync -f /srv/shop", "umount /srv/shop"]
    assert call("PostRel_10_log") == [f"logger -t locum {ADDRESS} (web) left alpha for beta, epoch 7: switchover"]


class ExampleContext:
    def __init__(self, **values: object) -> None:
        self.__dict__.update(values)
        self.said: list[str] = []

    def log(self, text: object) -> None:
        self.said.append(str(text))


def example(name: str) -> Any:
    spec = importlib.util.spec_from_file_location("example", EXAMPLES / "10.0.0.100" / name)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.dont_write_bytecode, before = True, sys.dont_write_bytecode
    try:
        spec.loader.exec_module(module)
    finally:
        sys.dont_write_bytecode = before
    return module


def test_the_example_fence_keeps_a_late_holder_out(tmp_path: Path) -> None:
    fence = example("PreAcq_20_fence.py")
    fence.VOLUME = tmp_path
    outcomes = [asyncio.run(fence.hook(ExampleContext(epoch=epoch, node="alpha"))) for epoch in (8, 9, 8, 9, 10)]
    assert outcomes == [True, True, False, True, True]


def test_the_example_probe_waits_for_the_server() -> None:
    probe = example("PostAcq_20_answers.py")
    probe.SECONDS = 2

    async def late_server() -> tuple[object, object]:
        silent = await asyncio.start_server(lambda reader, writer: writer.close(), "127.0.0.1", 0)
        probe.PORT = silent.sockets[0].getsockname()[1]
        silent.close()
        context = ExampleContext(address="127.0.0.1/8")
        probing = asyncio.create_task(probe.hook(context))
        await asyncio.sleep(0.15)
        early = probing.done()
        async with await asyncio.start_server(lambda reader, writer: writer.close(), "127.0.0.1", probe.PORT):
            return early, await probing

    assert asyncio.run(late_server()) == (False, True)
    probe.SECONDS = 0.2
    assert asyncio.run(probe.hook(ExampleContext(address="127.0.0.1/8"))) is False
