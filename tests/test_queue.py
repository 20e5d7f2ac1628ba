"""Workers in other processes share Archs: each is evaluated once, also where workers die."""

import json
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from optuna import Study
from optuna.trial import TrialState

from results.errors import NotFiniteError, RunError, UserError
from supernet.arch import Arch
from supernet.evaluation.queue import SharedQueue
from supernet.official import named_arch

ROOT = Path(__file__).parents[1]
SETTINGS = {"weights_sha256": "0" * 64, "n": 10}
B0 = named_arch("b0")
ARCHS = [replace(B0, resolution=(32 * n, 32 * n)) for n in range(1, 9)]


def value(arch, seen=None):
    """Stands for an evaluation; notes what it is asked for."""
    if seen is not None:
        seen.append(arch)
    return [{"value": arch.resolution[0]}]


WORKER = """
import os, pathlib, signal, sys, time
from tests.test_queue import ARCHS, share
log, seconds, mode = pathlib.Path(sys.argv[2]), float(sys.argv[3]), sys.argv[4]
def evaluate(arch):
    with log.open("a") as file:
        file.write(f"{arch.resolution[0]}\\n")
    if mode == "dies":
        os.kill(os.getpid(), signal.SIGKILL)
    end = time.monotonic() + 60
    while mode == "waits" and time.monotonic() < end and not log.with_name("enough").exists():
        time.sleep(0.05)
    time.sleep(seconds)
    return [{"value": arch.resolution[0]}]
list(share(sys.argv[1]).work(ARCHS, evaluate))
"""


def share(storage, **options):
    return SharedQueue(storage, "study", SETTINGS, pulse_s=0.1, grace_s=3.0, **options)


def worker(storage, log, seconds=0.05, mode="lives"):
    arguments = [storage, str(log), str(seconds), mode]
    return subprocess.Popen([sys.executable, "-c", WORKER, *arguments], cwd=ROOT)


@pytest.fixture(params=["journal", "sqlite"])
def storage(request, tmp_path):
    return str(tmp_path / "work.log") if request.param == "journal" else sqlite(tmp_path)


def sqlite(folder):
    return f"sqlite:///{folder / 'work.db'}"


def beaten(shared, arch):
    """A value that takes until the heart has beaten twice."""
    end = time.monotonic() + 30
    while time.monotonic() < end:
        (trial,) = shared._study.get_trials()
        if trial.user_attrs.get("beat", 0) >= 2:
            break
        time.sleep(0.05)
    return value(arch)


def values(found):
    return [(arch, rows[0]["value"]) for arch, rows in found]


EXPECTED = [(arch, arch.resolution[0]) for arch in ARCHS]


def test_workers_share_and_repeat_nothing(storage, tmp_path):
    log = tmp_path / "log"
    workers = [worker(storage, log) for _ in range(3)]
    assert [w.wait(60) for w in workers] == [0, 0, 0]
    assert sorted(map(int, log.read_text().split())) == [32 * n for n in range(1, 9)]
    again = share(storage)
    list(again.work(ARCHS, lambda arch: pytest.fail("all were evaluated")))
    assert values(again.rows(ARCHS)) == EXPECTED


def test_what_a_killed_worker_was_on_is_evaluated_by_another(storage, tmp_path):
    log = tmp_path / "log"
    assert worker(storage, log, mode="dies").wait(60) == -signal.SIGKILL
    shared = share(storage)
    seen: list[Arch] = []
    list(shared.work(ARCHS, partial(value, seen=seen)))
    assert len(log.read_text().split()) == 1
    assert Counter(seen) == Counter(ARCHS)
    assert values(shared.rows(ARCHS)) == EXPECTED


def test_a_slow_worker_is_not_taken_for_a_dead_one(tmp_path):
    storage, log = sqlite(tmp_path), tmp_path / "log"
    share(storage)
    slow = worker(storage, log, mode="waits")
    while not log.exists():
        time.sleep(0.05)
    seen: list[Arch] = []

    def evaluate(arch):
        if len(seen) == len(ARCHS) - 2:  # the last one that is left beside the slow worker's
            threading.Timer(6, (tmp_path / "enough").touch).start()  # twice the grace
        return value(arch, seen)

    list(share(storage).work(ARCHS, evaluate))
    assert slow.wait(60) == 0
    assert len(log.read_text().split()) == 1
    assert len(seen) == len(ARCHS) - 1
    assert values(share(storage).rows(ARCHS)) == EXPECTED


def test_a_storage_that_answers_late_is_no_silence(tmp_path, monkeypatch):
    storage = str(tmp_path / "log")
    begun, enough = threading.Event(), threading.Event()

    def slow(arch):
        begun.set()
        enough.wait(60)
        return value(arch)

    worker = threading.Thread(target=lambda: list(share(storage).work(ARCHS[:1], slow)))
    worker.start()
    begun.wait(60)
    other = share(storage)
    looks: list[float] = []

    def late(look=other._trials):
        looks.append(time.monotonic())
        if len(looks) == 2:
            time.sleep(4)  # more than the grace
        if len(looks) == 12:
            enough.set()
        return look()

    monkeypatch.setattr(other, "_trials", late)
    try:
        list(other.work(ARCHS[:1], lambda arch: pytest.fail("another is on it")))
    finally:
        enough.set()
        worker.join()
    assert len(looks) >= 12


def test_of_many_that_want_the_same_arch_one_gets_it(storage):
    """In threads, as processes start too far apart to collide often."""
    share(storage)._add([arch.to_json() for arch in ARCHS])
    workers, gate = [share(storage) for _ in range(4)], threading.Barrier(4)
    seen: list[Arch] = []

    def work(shared):
        trials = shared._trials()
        for arch in ARCHS:
            gate.wait()
            shared._claim(trials[arch.to_json()], arch, partial(value, seen=seen))

    threads = [threading.Thread(target=work, args=(shared,)) for shared in workers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert Counter(seen) == Counter(ARCHS)


def test_two_that_add_the_same_archs_at_once(tmp_path):
    shared = share(sqlite(tmp_path))
    seen: list[Arch] = []
    shared._add([arch.to_json() for arch in ARCHS] * 2)
    list(shared.work(ARCHS, partial(value, seen=seen)))
    assert Counter(seen) == Counter(ARCHS)


def test_an_arch_that_fails_again_and_again_is_named(tmp_path):
    storage = sqlite(tmp_path)

    def fails(arch):
        raise UserError("out of memory")

    for _ in range(3):
        with pytest.raises(UserError, match="out of memory"):
            list(share(storage).work(ARCHS[:1], fails))
    with pytest.raises(RunError, match=r"b 8x1 .* could not be evaluated 3 times"):
        list(share(storage).work(ARCHS[:1], fails))
    shared = share(storage)
    list(shared.work(ARCHS[1:], lambda arch: [{"value": 0.0}]))  # the others are none the worse
    assert len(list(shared.rows(ARCHS))) == len(ARCHS) - 1


def test_an_interrupted_arch_has_not_failed(tmp_path):
    storage = sqlite(tmp_path)

    def interrupted(arch):
        raise KeyboardInterrupt

    for _ in range(4):
        with pytest.raises(KeyboardInterrupt):
            list(share(storage).work(ARCHS[:1], interrupted))
    list(share(storage).work(ARCHS[:1], lambda arch: [{"value": 0.0}]))


def test_more_archs_may_join_a_study(tmp_path):
    shared = share(sqlite(tmp_path))
    seen: list[Arch] = []
    for end in (3, 8):
        list(shared.work(ARCHS[:end], partial(value, seen=seen)))
    assert Counter(seen) == Counter(ARCHS)


def test_what_is_wrong_is_named(tmp_path):
    storage = sqlite(tmp_path)
    share(storage)
    with pytest.raises(RunError, match="study study has n 10, not 20; give another --study"):
        SharedQueue(storage, "study", SETTINGS | {"n": 20})
    for bad in ("nosuch://x", "sqlite:////no/such/folder/x.db", "/no/such/folder/x.log"):
        with pytest.raises(RunError, match=f"--storage {bad} cannot be used: ") as caught:
            SharedQueue(bad, "study", SETTINGS)
        assert "\n" not in str(caught.value)


def test_a_worker_goes_on_while_its_heart_beats(tmp_path):
    """The thread that counts up ends with the evaluation."""
    before = set(threading.enumerate())
    shared = share(str(tmp_path / "log"))
    list(shared.work(ARCHS[:1], partial(beaten, shared)))
    assert set(threading.enumerate()) <= before
    (trial,) = shared._study.get_trials()
    assert trial.user_attrs["beat"] >= 2
    assert json.loads(trial.user_attrs["rows"]) == value(ARCHS[0])


def test_a_worker_taken_for_dead_goes_on(storage):
    """Another ends its trial meanwhile, as after a long silence; the Arch is tried once more."""
    other = share(storage)
    calls: list[Arch] = []

    def evaluate(arch):
        calls.append(arch)
        if len(calls) == 1:
            (running,) = (t for t in other._study.get_trials() if t.state.name == "RUNNING")
            other._end(running._trial_id, TrialState.FAIL)
            time.sleep(0.3)  # beats at a trial that is over
        return value(arch)

    shared = share(storage)
    list(shared.work(ARCHS[:2], evaluate))
    assert len(calls) == 3
    assert values(shared.rows(ARCHS)) == EXPECTED[:2]


def test_a_storage_that_fails_once_ends_no_heartbeat(tmp_path, monkeypatch):
    shared = share(sqlite(tmp_path))
    write = shared._storage.set_trial_user_attr
    failed: list[int] = []

    def flaky(number, name, what):
        if name == "beat" and not failed:
            failed.append(number)
            raise OSError("database is locked")
        write(number, name, what)

    monkeypatch.setattr(shared._storage, "set_trial_user_attr", flaky)
    list(shared.work(ARCHS[:1], partial(beaten, shared)))
    assert failed
    (trial,) = shared._study.get_trials()
    assert trial.user_attrs["beat"] >= 2


def test_of_two_that_begin_a_study_at_once_one_is_refused(tmp_path, monkeypatch):
    """The other's settings come last: after this one's, or while it evaluates."""
    storage, others = sqlite(tmp_path), SETTINGS | {"n": 20}
    shared = share(storage)

    def evaluate(arch):
        shared._study.set_user_attr("settings", others)
        return value(arch)

    with pytest.raises(RunError, match="study study has n 20, not 10"):
        list(shared.work(ARCHS[:1], evaluate))
    assert not list(shared.rows(ARCHS))

    write = Study.set_user_attr

    def twice(self, name, what):
        write(self, name, what)
        write(self, name, others)

    monkeypatch.setattr(Study, "set_user_attr", twice)
    with pytest.raises(RunError, match="study study has n 20, not 10"):
        share(str(tmp_path / "other.log"))


def test_a_network_that_is_not_finite_holds_up_no_other(storage):
    def evaluate(arch):
        if arch == ARCHS[2]:
            raise NotFiniteError("the output is not finite")
        return value(arch)

    list(share(storage).work(ARCHS, evaluate))
    again = share(storage)
    list(again.work(ARCHS, lambda arch: pytest.fail("all were evaluated")))
    assert values(again.rows(ARCHS)) == EXPECTED[:2] + EXPECTED[3:]
    assert again.errors(ARCHS) == {ARCHS[2]: "the output is not finite"}


def test_a_storage_that_fails_without_a_word_is_named(tmp_path, monkeypatch):
    def silent(**options):
        raise TimeoutError

    monkeypatch.setattr("optuna.create_study", silent)
    with pytest.raises(RunError, match="x cannot be used: TimeoutError"):
        share(str(tmp_path / "x"))


@pytest.mark.parametrize(
    "url",
    [
        "mysql+pymysql://u:s3cret@localhost/x",
        "postgresql+psycopg2://u:s3cr@et/s3cret:1@h/x",
        "postgresql://u:p%40s3cret@h/x",
        "postgresql://u:s3 cret@h/x",
        "postgresql://u:s3'cret@h/x",
        "postgresql://u:s3?cret@h/x",
        "postgresql+psycopg2:///x?host=h&user=u&password=s3cret",
        "mssql+pyodbc:///?odbc_connect=DRIVER%3D%7BX%7D%3BPWD%3Ds3cret",
        "mysql+pymysql://u:s3cret@h:port/x",
        "redis://:s3cret@h/0",
        "://u:s3cret@h",
        "mysql+pymysql://u:p@ss:s3cret@h/db",
        "mysql+pymysql://u:p@ss:s3cret/x@h/db",
        "mysql+pymysql://u:a#:s3cret@h/db",
        "mysql+pymysql://u:a[s3cret@h/db",
        "postgresql://u:a@h:s3cret@h:5432/x",
        "mysql+pymysql:/u:s3cret@h",
    ],
)
def test_no_error_shows_a_password(url, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("supernet.evaluation.queue.ATTEMPTS", 1)
    with pytest.raises(RunError, match="cannot be used") as caught:
        share(url)
    assert "cret" not in str(caught.value)
    assert "***" in str(caught.value)
    assert "cret" not in "".join(capfd.readouterr())


def test_what_a_driver_says_holds_no_password_either(monkeypatch):
    def fail(_):
        raise RuntimeError("login of u with p@s3cret at h failed: mysql://u:p%40s3cret@h")

    monkeypatch.setattr("supernet.evaluation.queue.ATTEMPTS", 1)
    monkeypatch.setattr("supernet.evaluation.queue._storage", fail)
    with pytest.raises(RunError, match=r"login of u with \*\*\* at h failed") as caught:
        share("mysql://u:p%40s3cret@h/x")
    assert "cret" not in str(caught.value)


@pytest.mark.parametrize(
    ("reason", "shown"),
    [
        ("invalid literal: 's3cret@h'", False),
        ("cannot use 'WORD:S3CR'", False),
        ("p@ss:word: no", False),
        ("no such host: h2", True),
        ("the access was denied", True),  # three signs of the password are no part of it
    ],
)
def test_what_a_library_says_is_left_out_where_it_holds_a_part_of_it(monkeypatch, reason, shown):
    def fail(_):
        raise ValueError(reason)

    monkeypatch.setattr("supernet.evaluation.queue.ATTEMPTS", 1)
    monkeypatch.setattr("supernet.evaluation.queue._storage", fail)
    with pytest.raises(RunError, match="cannot be used") as caught:
        share("mysql://u:p@ss:word:s3cret@h2/x")
    assert (reason in str(caught.value)) == shown
    assert ("ValueError, whose text holds a part of" in str(caught.value)) != shown


@pytest.mark.parametrize(
    "data",
    [b"my notes", b"my notes\n", b"1\n2\n", b"[" * 100_000, b'{"op_code":99}\n', b'{"a":1}\n'],
)
def test_a_file_that_is_no_journal_is_left_as_it_is(tmp_path, data):
    (tmp_path / "notes.txt").write_bytes(data)
    with pytest.raises(RunError, match=r"--storage .*notes\.txt"):
        share(str(tmp_path / "notes.txt"))
    assert (tmp_path / "notes.txt").read_bytes() == data
    assert list(tmp_path.iterdir()) == [tmp_path / "notes.txt"]


def test_a_journal_with_a_line_that_is_being_written_is_used(tmp_path):
    from supernet.evaluation.queue import _check_file

    path = tmp_path / "journal"
    list(share(str(path)).work(ARCHS[:1], value))
    path.write_bytes(path.read_bytes() + b"\n" + b'{"op_code":')
    before = path.read_bytes()
    _check_file(str(path))
    assert path.read_bytes() == before


@pytest.mark.parametrize("attributes", [{}, {"arch": 7}, {"arch": None}])
def test_a_study_of_something_else_is_named(tmp_path, attributes):
    import optuna

    url = f"sqlite:///{tmp_path / 'a.db'}"
    study = optuna.create_study(storage=url, study_name="study", direction="maximize")
    study.add_trial(optuna.trial.create_trial(value=1.0, user_attrs=attributes))
    with pytest.raises(RunError, match="not of evaluated networks; give another --study"):
        list(share(url).work(ARCHS[:1], value))
    study.set_user_attr("settings", "text")
    with pytest.raises(RunError, match="not of evaluated networks; give another --study"):
        share(url)


def test_rows_of_another_kind_are_named(tmp_path):
    url = f"sqlite:///{tmp_path / 'a.db'}"
    shared = share(url)
    list(shared.work(ARCHS[:1], value))
    for text in ("[" * 100_000, "7", "{}", "x", [1]):
        for trial in shared._study.get_trials(deepcopy=False):
            trial.user_attrs["rows"] = text
        monkey = shared._study.get_trials(deepcopy=False)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(shared._study, "get_trials", lambda found=monkey, **_: found)
            with pytest.raises(RunError, match="study study, trial 0: "):
                list(shared.rows(ARCHS[:1]))


def test_a_data_base_that_goes_away_is_one_line_without_its_password(tmp_path, monkeypatch):
    from sqlalchemy.exc import OperationalError

    shared = share(f"sqlite:///{tmp_path / 'a.db'}")
    shared._url = "mysql://u:s3cret@h/x"

    def gone(**_):
        raise OperationalError("select", {}, Exception("mysql://u:s3cret@h: gone away"))

    monkeypatch.setattr(shared._study, "get_trials", gone)
    for ask in (lambda: list(shared.work(ARCHS[:1], value)), lambda: list(shared.rows(ARCHS))):
        with pytest.raises(RunError, match=r"cannot be used.*run the command again") as caught:
            ask()
        assert "s3cret" not in str(caught.value)
        assert "gone away" in str(caught.value)
