"""One damaged file after another, each read as the product would, and what must hold of it.

A reader gives a value or raises a UserError of one printable line. It takes at most 10 s of CPU
and 1 GB, runs nothing, gives no number that is none, writes into its own folder alone and reads
nothing of a folder beside it. Anything else is a finding.

    root/work/       the setting with the damaged file, afresh for every mutant; also the cwd
    root/base/NAME/  the setting as the product wrote it
    root/sentinel/   what no file may make a reader touch
"""

import contextlib
import io
import math
import os
import resource
import shutil
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random
from typing import Any

from PIL import Image

from results.errors import UserError
from tests.conftest import ROOT
from tests.fuzzing.mutate import Mutator

MOST_SECONDS = 10.0  # of CPU
MOST_WALL_S = 60.0  # a machine that others use is slow; a hang is endless
MOST_MEGABYTES = 1000.0
MOST_CHARACTERS = 1200  # of an error
MOST_DATA = 6 * 2**30  # of a process, so that a bomb ends it and not the machine
ODD = ("a FIFO", "a folder", "a circle of links", "a link elsewhere", "6 GB", "nothing")
PASSWORD = "secret"  # in a URL that mutants hold


@dataclass(frozen=True)
class Reader:
    """One place where the product reads what others wrote."""

    name: str
    make: Callable[[Path], list[Path]]  # fills a folder; the files in it that are damaged
    mutate: Mutator
    use: Callable[[Path], Any]  # the damaged file, in a fresh copy of that folder
    quick: int = 10  # mutants of the ordinary suite
    is_file: bool = True  # of a user; else what a tool printed, and the file is ours alone
    runs: bool = False  # it starts programs, and may


@dataclass(frozen=True)
class Outcome:
    """Of one mutant; `kind` is value, error, or a finding's."""

    reader: str
    number: int
    kind: str
    text: str = ""
    place: str = ""  # in the product, of a finding
    seconds: float = 0.0
    megabytes: float = 0.0

    @property
    def is_finding(self) -> bool:
        return self.kind not in ("value", "error")

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


class TooSlowError(BaseException):
    """Not caught by whoever catches exceptions."""


class Fuzzer:
    """Runs mutants in this process, which it changes for good: see `worker`."""

    def __init__(self, root: Path, seed: int) -> None:
        self.root, self.seed = root, seed
        self.work, self.sentinel = root / "work", root / "sentinel"
        self._bases: dict[str, list[Path]] = {}
        self._watched = False
        self._touched: list[str] = []
        self._may_run = self._may_read = False
        _make_sentinel(self.sentinel)
        for name in ("tmp", "cache"):
            (root / name).mkdir()
        resource.setrlimit(resource.RLIMIT_DATA, (MOST_DATA, MOST_DATA))
        signal.signal(signal.SIGPROF, _too_slow)
        signal.signal(signal.SIGALRM, _too_slow)
        sys.addaudithook(self._audit)

    def check_sound(self, reader: Reader) -> Outcome | None:
        """A finding where the reader does not take what the product wrote."""
        try:
            files = self._files(reader)
        except Exception as error:
            return Outcome(reader.name, -1, "unsound", repr(error), _place(error))
        for name in files:
            path = self._fresh(reader) / name
            kind, text, place = self._read(reader, path)
            if kind != "value" or self._touched:
                text = f"{name}: {kind}: {text} {self._touched[:1]}"
                return Outcome(reader.name, -1, "unsound", text, place)
        return None

    def mutant(self, reader: Reader, number: int) -> tuple[Path, bytes]:
        """Fill `work`; the path of the damaged file, and what was there. The same for a seed."""
        rng = Random(f"{self.seed} {reader.name} {number}")
        files = self._files(reader)
        path = self._fresh(reader) / files[number % len(files)]
        sound = path.read_bytes()
        if self._is_odd(reader, number):
            path.unlink()
            _make_odd(path, ODD[number], self.sentinel)
            return path, sound
        path.write_bytes(reader.mutate(sound, rng))
        return path, sound

    def _is_odd(self, reader: Reader, number: int) -> bool:
        """The first of a reader's mutants are no files, or not of any size that is meant."""
        return reader.is_file and 0 <= number < len(ODD)

    def _files(self, reader: Reader) -> list[Path]:
        """Those that are damaged, relative; made once."""
        if reader.name not in self._bases:
            base = self.root / "base" / reader.name
            base.mkdir(parents=True)
            self._bases[reader.name] = [path.relative_to(base) for path in reader.make(base)]
        return self._bases[reader.name]

    def _fresh(self, reader: Reader) -> Path:
        os.chdir(self.root)
        shutil.rmtree(self.work, ignore_errors=True)
        shutil.copytree(self.root / "base" / reader.name, self.work)
        os.chdir(self.work)
        return self.work

    def run(self, reader: Reader, number: int) -> Outcome:
        path, sound = self.mutant(reader, number)
        odd = self._is_odd(reader, number)
        self._may_read = odd  # the path is a link, which its user may have made
        before = _snapshot(self.sentinel)
        started = time.process_time()
        with _peak() as peak:
            kind, text, place = self._read(reader, path)
        seconds, megabytes = time.process_time() - started, peak[0]
        if self._touched:
            kind, text, place = "touched", self._touched[0], place
        if _snapshot(self.sentinel) != before:
            kind, text = "touched", "the folder beside the output folder has changed"
            shutil.rmtree(self.sentinel)
            _make_sentinel(self.sentinel)
        if kind in ("value", "error") and megabytes > MOST_MEGABYTES:
            kind, text = "memory", f"{megabytes:.0f} MB; {text}"
        if kind not in ("value", "error"):
            changed = ODD[number] if odd else difference(sound, path)
            text = f"{text[:300]} | {changed}"
        return Outcome(reader.name, number, kind, text, place, seconds, megabytes)

    def _read(self, reader: Reader, path: Path) -> tuple[str, str, str]:
        self._touched, self._may_run = [], reader.runs
        said = io.StringIO()
        signal.setitimer(signal.ITIMER_PROF, MOST_SECONDS)
        signal.setitimer(signal.ITIMER_REAL, MOST_WALL_S)
        try:
            with (
                contextlib.redirect_stdout(io.StringIO()),
                contextlib.redirect_stderr(said),
                warnings.catch_warnings(record=True) as warned,
            ):
                warnings.simplefilter("default")
                self._watched = True
                try:
                    value = reader.use(path)
                finally:
                    self._watched = False
                    signal.setitimer(signal.ITIMER_PROF, 0)
                    signal.setitimer(signal.ITIMER_REAL, 0)
            for one in warned:
                if issubclass(one.category, RuntimeWarning | UserWarning):
                    where = f"{os.path.relpath(one.filename, ROOT)}:{one.lineno}"
                    return "warning", str(one.message), where
            if "Traceback" in said.getvalue():
                return "printed", said.getvalue()[-300:], ""
            if wrong := next(_not_finite(value), None):
                return "number", f"it gave {wrong}", ""
            return "value", repr(value)[:80] if isinstance(value, int | float | str) else "", ""
        except UserError as error:
            wrong_text = _wrong_with(str(error))
            where = _place(error) if wrong_text else ""
            return (
                ("words", f"{wrong_text}: {str(error)[:200]!r}", where)
                if wrong_text
                else ("error", str(error)[:200], "")
            )
        except TooSlowError as error:
            return "slow", f"more than {MOST_SECONDS:g} s", _place(error)
        except OSError as error:
            # What results.console shows as one line: a file that is named and is not there.
            if error.filename and error.strerror:
                return "error", str(error)[:200], ""
            return type(error).__name__, str(error)[:200], _place(error)
        except SystemExit as error:
            kind = "error" if error.code == 2 else "exit"
            return kind, str(error.code), _place(error)
        except BaseException as error:
            return type(error).__name__, str(error)[:200], _place(error)

    def _audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        """Take down what leaves `work`. Not raised: the reader must not be able to catch it."""
        if not self._watched:
            return
        if event in _PROGRAMS and not self._may_run:
            self._touched.append(f"{event} {str(arguments)[:100]}")
        paths: tuple[Any, ...] = ()
        if event == "open":
            path, _, flags = arguments
            writes = flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND)
            if isinstance(path, str | bytes | os.PathLike):
                real = os.path.realpath(os.fsdecode(path))
                if real.startswith(f"{self.sentinel}/") and not self._may_read:
                    self._touched.append(f"read {real}")
                paths = (path,) if writes else ()
        elif event in _CHANGES:
            paths = arguments[: _CHANGES[event]]
        for path in paths:
            if isinstance(path, str | bytes | os.PathLike) and not self._is_own(os.fsdecode(path)):
                self._touched.append(f"{event} {os.fsdecode(path)[:200]}")

    def _is_own(self, path: str) -> bool:
        there = os.path.join(os.path.realpath(os.path.dirname(path) or "."), os.path.basename(path))
        own = [str(self.root / name) for name in ("work", "tmp", "cache")]
        return there in ("/dev/null", *own) or there.startswith(tuple(f"{p}/" for p in own))


# Paths among the arguments of an event, from the first.
_CHANGES = {
    **{"os.remove": 1, "os.rmdir": 1, "os.mkdir": 1, "os.truncate": 1, "os.chmod": 1},
    **{"os.rename": 2, "os.link": 2, "os.symlink": 2, "shutil.rmtree": 1, "shutil.move": 2},
}
_PROGRAMS = {"os.system", "os.exec", "os.posix_spawn", "os.spawn", "subprocess.Popen", "os.fork"}


def _make_odd(path: Path, kind: str, sentinel: Path) -> None:
    """What a path may lead to that is no file as it is expected."""
    match kind:
        case "a FIFO":
            os.mkfifo(path)
        case "a folder":
            path.mkdir()
        case "a circle of links":
            path.symlink_to(path)
        case "a link elsewhere":
            path.symlink_to(sentinel / "victim.txt")
        case "6 GB":
            with path.open("wb") as file:
                file.truncate(6 * 2**30)


def difference(sound: bytes, path: Path) -> str:
    """Where a mutant begins to differ, a few characters of both."""
    try:
        found = path.read_bytes()
    except OSError:
        return "the file is gone"
    at, step = 0, 2**16
    while sound[at : at + step] == found[at : at + step] and at < len(sound):
        at += step
    pairs = zip(sound[at : at + step], found[at : at + step], strict=False)
    at += next((number for number, (a, b) in enumerate(pairs) if a != b), 0)
    start = max(at - 20, 0)
    return f"at {at} of {len(sound)}: {sound[start : at + 30]!r} became {found[start : at + 60]!r}"


def _too_slow(*_: object) -> None:
    raise TooSlowError


def _place(error: BaseException) -> str:
    """The last line of the product that was on the way."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [f for f in frames if f.filename.startswith(f"{ROOT}/") and "/tests/" not in f.filename]
    own = [frame for frame in own if "/.venv/" not in frame.filename]
    last = own[-1] if own else frames[-1]
    return f"{os.path.relpath(last.filename, ROOT)}:{last.lineno} {last.name}"


def _wrong_with(text: str) -> str:
    if not text.strip():
        return "no words"
    if not text.isprintable():
        return "not printable"
    if len(text) > MOST_CHARACTERS:
        return f"{len(text)} characters"
    return "a password" if f":{PASSWORD}@" in text else ""


def _not_finite(value: Any) -> Iterator[float]:
    """Numbers that are none, in whatever a reader returned."""
    if isinstance(value, float) and not math.isfinite(value):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from _not_finite(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _not_finite(item)


@contextlib.contextmanager
def _peak() -> Iterator[list[float]]:
    """How much more memory than at first was held at once, megabytes."""
    found = [0.0]
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # the peak is what is held now
    before = _status("VmRSS")
    try:
        yield found
    finally:
        found[0] = max(0.0, (_status("VmHWM") - before) / 1e3)


def _status(name: str) -> int:
    """Kilobytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1])
    return 0


def _make_sentinel(folder: Path) -> None:
    folder.mkdir()
    (folder / "victim.txt").write_text("nobody may change this\nnor end it")
    for name in ("victim.png", "victim.jpg"):
        Image.new("RGB", (40, 30), (200, 30, 30)).save(folder / name)


def _snapshot(folder: Path) -> list[tuple[str, int, bytes]]:
    return [
        (str(path), path.stat().st_mtime_ns, path.read_bytes())
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    ]
