"""One command under supervision: bounded in time, its end never guessed, nothing left running.

The command runs below a small shell script, the same on this machine, behind ssh and on a phone.
The script holds the other end of our pipe: when we close it, or die, or the connection does, it
ends the command's process group, for a hung model left on a device would falsify all later
timings. And it reports the exit status as a last line of output: where that line is missing, the
connection was lost, whatever exit status the client made of it; where its first line is missing
too, there never was one.
"""

import contextlib
import os
import queue
import secrets
import signal
import subprocess
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from types import TracebackType

# $1 a word for the first and the last line, $2 bytes of standard input, then the command. POSIX
# and toybox; without setsid (macOS) the command itself is ended, not its children.
SUPERVISOR = """\
word=$1 size=$2
shift 2
exec 3<&0
printf '%s\\n' "$word"
if ! command -v "$1" >/dev/null 2>&1; then
    echo "no program $1" >&2
    printf '%s %d\\n' "$word" 127
    exit 127
fi
if command -v setsid >/dev/null 2>&1; then own=setsid group=-; else own= group=; fi
if [ "$size" -gt 0 ]; then
    data=$(head -c "$size" <&3; echo .)  # before the watch below could take any of it
    $own "$@" 3<&- <<END &
${data%.}
END
else
    $own "$@" </dev/null 3<&- &
fi
job=$!
{
    trap '' HUP  # old phones send it when the connection goes, before the pipe ends
    cat <&3
    kill -TERM "$group$job"
    sleep 1
    kill -KILL "$group$job"
} >/dev/null 2>&1 &
watch=$!
wait "$job"
status=$?
kill "$watch" 2>/dev/null
printf '%s %d\\n' "$word" "$status"
exit "$status"
"""


MOST_LINE = 4 * 2**20  # bytes of a line; a pass over a thousand models has 20 kB
MOST_LINES = 64  # that wait to be taken
MOST_STDERR_LINE = 4096


class SilenceError(Exception):
    """Nothing came for as long as was granted."""


class OutputError(Exception):
    """More came than any command of ours gives."""


class Supervised:
    """A command's output, line by line; leaving the context ends the command.

    `client` turns the argument list of the supervised command into the one to start here: the
    identity for this machine, `ssh HOST ...` for another.
    """

    def __init__(self, argv: Sequence[str], stdin: str | None = None) -> None:
        self._word = f"ended-{secrets.token_hex(8)}"
        self._data = (stdin or "").removesuffix("\n").encode()  # the script ends the last line
        self.argv = ["sh", "-c", SUPERVISOR, "sh", self._word, str(len(self._data)), *argv]
        self.started = False
        self.status: int | None = None  # of the command; None while it runs or where it was lost
        self._stderr: deque[str] = deque(maxlen=50)
        self._lines: queue.Queue[str | OutputError | None] = queue.Queue(MOST_LINES)
        self._ended = False

    def start(self, client: Sequence[str]) -> "Supervised":
        """Start the client, and return itself. Raises OSError where that cannot be."""
        self._popen = subprocess.Popen(
            client,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,  # an interrupt of ours is not the client's: we end it in order
        )
        self._threads = [
            threading.Thread(target=work, daemon=True)
            for work in (self._feed, self._read_stdout, self._read_stderr)
        ]
        for thread in self._threads:
            thread.start()
        return self

    def __enter__(self) -> "Supervised":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.end()

    def lines(self, *, idle_timeout_s: float, timeout_s: float | None = None) -> Iterator[str]:
        """Yield lines without their ends, as they come; then `status` is set, or None if lost.

        Raises SilenceError when nothing comes for `idle_timeout_s`, or the end not within
        `timeout_s` in all; OutputError for a line that has no end.
        """
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        while True:
            wait_s = idle_timeout_s
            if deadline is not None:
                wait_s = min(wait_s, max(deadline - time.monotonic(), 0))
            try:
                line = self._lines.get(timeout=wait_s)
            except queue.Empty:
                raise SilenceError from None
            if line is None:
                return
            if isinstance(line, OutputError):
                raise line
            if line == self._word:
                self.started = True
                continue
            text, word, status = line.partition(f"{self._word} ")
            if text or not word:
                yield text
            if word and status.isdecimal() and len(status) < 4:
                self.status = int(status)
                return

    def stderr(self, *, ended: bool) -> list[str]:
        """Return the last lines of standard error, the client's own among them.

        `ended` waits for the client, as they come beside the output, maybe a little later.
        """
        if ended:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._popen.wait(5)
                self._threads[-1].join(1)
        return [line for line in list(self._stderr) if line.strip()]

    def end(self) -> None:
        """End the command there and its client here, in order where they let us."""
        self._ended = True
        if self._popen.poll() is None:
            with contextlib.suppress(OSError, ValueError):
                assert self._popen.stdin is not None
                self._popen.stdin.close()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._popen.wait(5)  # the script grants a second itself, on a busy machine more
        with contextlib.suppress(ProcessLookupError, PermissionError):
            if self._popen.poll() is None:
                os.killpg(self._popen.pid, signal.SIGKILL)
        self._popen.wait()
        for thread in self._threads:
            thread.join(1)
        for pipe in (self._popen.stdin, self._popen.stdout, self._popen.stderr):
            with contextlib.suppress(OSError, ValueError):
                if pipe and not any(thread.is_alive() for thread in self._threads):
                    pipe.close()

    def _feed(self) -> None:
        assert self._popen.stdin is not None
        left = memoryview(self._data)
        with contextlib.suppress(OSError, ValueError):  # it may end without reading
            while left:  # not through the buffer, whose lock would keep `end` from closing it
                left = left[os.write(self._popen.stdin.fileno(), left) :]

    def _read_stdout(self) -> None:
        assert self._popen.stdout is not None
        with contextlib.suppress(OSError, ValueError):
            while line := self._popen.stdout.readline(MOST_LINE):
                if len(line) == MOST_LINE:
                    self._put(OutputError(f"a line of more than {MOST_LINE >> 20} MB"))
                    # so that the command fails instead of waiting for us
                    self._popen.stdout.close()
                    break
                self._put(line.decode(errors="replace").rstrip("\r\n"))
        self._put(None)

    def _put(self, line: str | OutputError | None) -> None:
        """Hand on a line; wait for whoever takes lines, as long as anybody does."""
        while not self._ended:
            with contextlib.suppress(queue.Full):
                self._lines.put(line, timeout=0.2)
                return

    def _read_stderr(self) -> None:
        assert self._popen.stderr is not None
        with contextlib.suppress(OSError, ValueError):
            while line := self._popen.stderr.readline(MOST_STDERR_LINE):
                self._stderr.append(line.decode(errors="replace").rstrip("\r\n"))
