"""Networks to evaluate, shared by processes on any machines through one of Optuna's storages.

A trial is one Arch that somebody evaluates. While it runs its worker counts up a number that
the storage keeps; where that number stands still for some time the worker is dead, and the
Arch is up for grabs again. No clocks are compared, and every kind of storage will do.
"""

import json
import os
import random
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from results.errors import NotFiniteError, RunError, masked_url, reason_of, shown, without_secrets
from results.reading import MOST_LOG_BYTES, Record, parse_json, read_bytes, whole_lines
from supernet.arch import Arch
from supernet.evaluation.rows import EvaluationRow

if TYPE_CHECKING:
    from optuna import Study
    from optuna.storages import BaseStorage
    from optuna.trial import FrozenTrial
    from sqlalchemy import Engine

PULSE_S, GRACE_S = 5.0, 60.0  # how often a worker is heard of; how long it may be silent
ATTEMPTS = 4  # to open a storage
MOST_FAILURES = 3  # of one Arch, dead workers counted
ERROR = "error"  # attribute of an Arch whose outputs are not finite, for whomever
NOBODY = "NOBODY"  # state of an Arch that no worker holds or will take


class Line(Record, frozen=True):
    """A line of Optuna's journal; Optuna looks at the rest."""

    op_code: Literal[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10]


class SharedQueue:
    """The Archs of a study; whichever worker comes first evaluates one."""

    def __init__(
        self,
        storage: str,
        study: str,
        settings: EvaluationRow,
        *,
        pulse_s: float = PULSE_S,
        grace_s: float = GRACE_S,
    ) -> None:
        """Join a study, or begin it.

        `storage`: a URL as Optuna takes it, or the path of a file that is made.

        Raises RunError where the storage cannot be used, or the study has other settings.
        """
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.pulse_s, self.grace_s = pulse_s, grace_s
        self._url = storage
        self._study = _study(storage, study)
        self._settings = settings
        if "settings" not in self._study.user_attrs:
            self._study.set_user_attr("settings", settings)
        self._check_settings()
        self._storage: BaseStorage = self._study._storage
        self._beats: dict[int, tuple[int, float]] = {}  # by trial: the last new one, and when

    def work(
        self, archs: Iterable[Arch], evaluate: Callable[[Arch], list[EvaluationRow]]
    ) -> Iterator[Arch]:
        """Evaluate, beside other workers, until every one of `archs` has been.

        Gives those that this worker evaluated, as they are done. Those whose outputs `evaluate`
        finds not finite are passed over, see `errors`. Raises RunError for Archs that failed
        repeatedly, and what else `evaluate` raises.
        """
        with self._reached():
            yield from self._work({arch.to_json(): arch for arch in archs}, evaluate)

    def _work(
        self, wanted: dict[str, Arch], evaluate: Callable[[Arch], list[EvaluationRow]]
    ) -> Iterator[Arch]:
        while True:
            asked = time.monotonic()
            trials = self._trials()
            answered = time.monotonic()
            states = {text: _state(trials.get(text, [])) for text in wanted}
            missing = [text for text, state in states.items() if state == NOBODY]
            _check_failures(trials, missing)
            self._add(missing)
            waiting = [text for text, state in states.items() if state == "WAITING"]
            random.Random(os.getpid()).shuffle(waiting)  # workers do not race for the same one
            claimed = False
            for text in waiting:
                outcome = self._claim(trials[text], wanted[text], evaluate)
                claimed |= outcome != "taken"
                if outcome == "done":
                    yield wanted[text]
            if not missing and not claimed:
                if set(states.values()) == {"COMPLETE"}:
                    return
                self._release_the_dead(trials, asked, answered)
                time.sleep(min(self.pulse_s, self.grace_s) / 2)

    def rows(self, archs: Iterable[Arch]) -> Iterator[tuple[Arch, list[EvaluationRow]]]:
        """Give the figures of those of `archs` that have been evaluated, by whomever."""
        with self._reached():
            trials = self._trials()
        for arch in archs:
            for trial in trials.get(arch.to_json(), []):
                if trial.state.name == "COMPLETE":
                    where = f"study {self._study.study_name}, trial {trial.number}"
                    text = str(trial.user_attrs.get("rows"))
                    yield arch, parse_json(text, list[dict[str, Any]], where)
                    break

    def errors(self, archs: Iterable[Arch]) -> dict[Arch, str]:
        """Return what is wrong with those of `archs` that have no figures."""
        with self._reached():
            trials = self._trials()
        return {
            arch: str(trial.user_attrs[ERROR])
            for arch in archs
            for trial in trials.get(arch.to_json(), [])
            if ERROR in trial.user_attrs
        }

    def _check_settings(self) -> None:
        """Raise RunError where the study has other settings.

        Asked after the first look too: two workers may begin a study at once, and one is the last.
        """
        kept = self._study.user_attrs["settings"]
        if not isinstance(kept, dict):
            raise self._foreign()
        for name, value in self._settings.items():
            if kept.get(name) != value:
                raise RunError(
                    f"study {self._study.study_name} has {name} {shown(kept.get(name))}, not "
                    f"{shown(value)}; "
                    "give another --study, or the flags that it was begun with"
                )

    def _claim(
        self,
        trials: "list[FrozenTrial]",
        arch: Arch,
        evaluate: Callable[[Arch], list[EvaluationRow]],
    ) -> Literal["taken", "failed", "done"]:
        """Evaluate `arch` unless another worker has taken it."""
        from optuna.exceptions import UpdateFinishedTrialError
        from optuna.trial import TrialState

        trial = next(t for t in trials if t.state == TrialState.WAITING)
        number = trial._trial_id
        try:
            if not self._storage.set_trial_state_values(number, TrialState.RUNNING):
                return "taken"
        except UpdateFinishedTrialError:
            return "taken"
        try:
            with self._heartbeat(number):
                rows = evaluate(arch)
            self._check_settings()
        except NotFiniteError as error:
            self._end(number, TrialState.FAIL, {ERROR: str(error)})
            return "failed"
        except BaseException as error:
            interrupted = isinstance(error, KeyboardInterrupt)
            self._end(number, TrialState.PRUNED if interrupted else TrialState.FAIL)
            raise
        kept = {"rows": json.dumps(rows, allow_nan=False)}
        self._end(number, TrialState.COMPLETE, kept, [float(rows[0]["value"])])
        return "done"

    def _end(
        self,
        number: int,
        state: Any,
        attributes: dict[str, str] | None = None,
        values: list[float] | None = None,
    ) -> None:
        from optuna.exceptions import UpdateFinishedTrialError

        with suppress(UpdateFinishedTrialError):  # so slow that it was taken for dead
            for name, value in (attributes or {}).items():
                self._storage.set_trial_user_attr(number, name, value)
            self._storage.set_trial_state_values(number, state, values)

    @contextmanager
    def _heartbeat(self, number: int) -> Iterator[None]:
        from optuna.exceptions import UpdateFinishedTrialError

        stop = threading.Event()

        def beat() -> None:
            count = 0
            while not stop.wait(self.pulse_s):
                count += 1
                try:
                    self._storage.set_trial_user_attr(number, "beat", count)
                except UpdateFinishedTrialError:
                    return  # taken for dead
                except Exception:  # whatever the data base's driver raises
                    continue  # a storage that is back by the next beat has missed nothing

        thread = threading.Thread(target=beat, daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()

    def _release_the_dead(
        self, trials: "dict[str, list[FrozenTrial]]", asked: float, answered: float
    ) -> None:
        """End the trials of workers that have been silent for `grace_s`.

        Silent from one answer to the next question: what a storage or this process takes in
        between is no one's silence.
        """
        from optuna.trial import TrialState

        for trial in chain.from_iterable(trials.values()):
            if trial.state != TrialState.RUNNING:
                continue
            beat = trial.user_attrs.get("beat", 0)
            last, since = self._beats.get(trial._trial_id, (-1, answered))
            if beat != last:
                since = answered
            self._beats[trial._trial_id] = (beat, since)
            if asked - since > self.grace_s:
                self._end(trial._trial_id, TrialState.FAIL)

    def _add(self, texts: list[str]) -> None:
        from optuna.trial import TrialState, create_trial

        for text in texts:
            self._study.add_trial(create_trial(state=TrialState.WAITING, user_attrs={"arch": text}))

    def _trials(self) -> "dict[str, list[FrozenTrial]]":
        """Return trials by Arch's JSON, in the order in which they were added."""
        trials: dict[str, list[FrozenTrial]] = defaultdict(list)
        for trial in self._study.get_trials(deepcopy=False):
            text = trial.user_attrs.get("arch")
            if not isinstance(text, str):
                raise self._foreign()
            trials[text].append(trial)
        return dict(trials)

    def _foreign(self) -> RunError:
        name = self._study.study_name
        return RunError(f"study {name} is not of evaluated networks; give another --study")

    @contextmanager
    def _reached(self) -> Iterator[None]:
        """Raise RunError for what the storage raises, such as a data base that went away."""
        from optuna.exceptions import StorageInternalError
        from sqlalchemy.exc import SQLAlchemyError

        try:
            yield
        except (StorageInternalError, SQLAlchemyError) as error:
            raise RunError(
                f"{_unusable(self._url, error)}; what was evaluated is kept, run the command again"
            ) from None


def _state(trials: "list[FrozenTrial]") -> str:
    """Return the state of an Arch.

    COMPLETE if any trial is, or will never be; else that of the first that did not end; else
    NOBODY.

    Where two workers added an Arch at once the first trial is the one that counts.
    """
    names = [trial.state.name for trial in trials]
    if "COMPLETE" in names or any(ERROR in trial.user_attrs for trial in trials):
        return "COMPLETE"
    return next((name for name in names if name in ("WAITING", "RUNNING")), NOBODY)


def _check_failures(trials: "dict[str, list[FrozenTrial]]", missing: list[str]) -> None:
    for text in missing:
        states = [trial.state.name for trial in trials.get(text, [])]
        if states.count("FAIL") >= MOST_FAILURES:
            raise RunError(
                f"{Arch.from_json(text).describe()} could not be evaluated {MOST_FAILURES} "
                "times; evaluate it alone to see why, or leave it out"
            )


def _study(storage: str, name: str) -> "Study":
    """Return a study, made where it is not there yet.

    Raises RunError where the storage cannot be used.
    """
    import optuna

    _check_file(storage)
    for left in reversed(range(ATTEMPTS)):
        try:
            return optuna.create_study(
                storage=_storage(storage),
                study_name=name,
                direction="maximize",
                load_if_exists=True,
            )
        except Exception as error:  # whatever the data base's driver raises
            if not left:
                raise RunError(_unusable(storage, error)) from None
        time.sleep(random.uniform(0.1, 0.5))  # another worker may be making the same tables
    raise AssertionError


def _unusable(storage: str, error: Exception) -> str:
    """Return what is wrong with a storage, without the secrets of its URL."""
    reason = without_secrets(reason_of(error), storage)
    if reason is None:
        reason = (
            f"{type(error).__name__}, whose text holds a part of the password or query; :, @, / "
            "and % in a password are written %3A, %40, %2F and %25"
        )
    return f"--storage {masked_url(storage)} cannot be used: {reason}"


def _check_file(storage: str) -> None:
    """Raise RunError for a file that is no journal of Optuna's, to which one would be added."""
    path = Path(storage)
    if "://" in storage or not path.exists():
        return
    data = read_bytes(path, most=MOST_LOG_BYTES)
    lines, _ = whole_lines(data, '{"op_code":', f"--storage {storage}")
    for number, line in enumerate(lines, start=1):
        if line.strip():
            parse_json(line, Line, f"--storage {storage}, line {number}")


def _storage(text: str) -> "BaseStorage":
    from optuna.storages import JournalStorage, RDBStorage
    from optuna.storages.journal import JournalFileBackend

    if "://" not in text:
        return JournalStorage(JournalFileBackend(text))
    if not text.startswith("sqlite:"):
        return RDBStorage(text)
    storage = RDBStorage(text, engine_kwargs={"connect_args": {"timeout": 120}})
    _one_at_a_time(storage.engine)
    return storage


def _one_at_a_time(engine: "Engine") -> None:
    """Let SQLite, which locks no rows, run one transaction at a time.

    Else two workers may both read that an Arch waits, and both take it.

    Source: https://docs.sqlalchemy.org/en/20/dialects/sqlite.html, "Serializable isolation"
    """
    from sqlalchemy import event

    event.listen(engine, "connect", lambda dbapi, _: setattr(dbapi, "isolation_level", None))
    event.listen(engine, "begin", lambda c: c.exec_driver_sql("BEGIN IMMEDIATE"))
    engine.dispose()  # connections from before
