"""A dead man's switch: ends the lab's processes when the lab's own process ends without having done so.

A process in a session of its own reads a pipe that only we can write to. When we end, by SIGKILL too, the pipe ends,
and it kills whatever lives in the lab's namespaces: also what the children of our children started, in whatever
session, which PR_SET_PDEATHSIG would not reach. It is a shell, since it must be small and start at once.
"""

import subprocess

_SCRIPT = """
names=
while read -r name; do names="$names $name"; done
for round in 1 2 3 4 5; do
    found=
    for process in /proc/[0-9]*; do
        case "$names " in
            *" $(readlink "$process/ns/net") "*) kill -KILL "${process#/proc/}"; found=yes ;;
        esac
    done
    [ "$found" ] || exit 0
done
"""


class Guard:
    """Watches over the namespaces that it is told of, until it is closed."""

    def __init__(self) -> None:
        self._shell = subprocess.Popen(
            ["/bin/sh", "-c", _SCRIPT],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            cwd="/",
            bufsize=0,
        )

    def watch(self, inode: int) -> None:
        """Take a network namespace, given by its inode, under guard."""
        assert self._shell.stdin is not None
        self._shell.stdin.write(f"net:[{inode}]\n".encode())

    def close(self) -> None:
        """Stand down: nothing is killed."""
        self._shell.kill()
        self._shell.wait()
        assert self._shell.stdin is not None
        self._shell.stdin.close()
