"""What a user can do wrong, as one tree; a command shows each as one line and exits with 2.

UserError
├── ArchError        not an architecture, or an unknown name of one
├── SpaceError       unknown space, dimension or value; an empty space
├── DeviceError      unknown device, runtime, precision or setting
├── TargetError      a machine or phone that cannot be reached, is full, hangs or fails
├── TableError       unreadable or inconsistent latency table or calibration points
├── PredictorError   asked for what no published figure or supernet supports
├── DataError        pictures, labels or layouts that cannot be read
├── ImageError       a picture or prompt that cannot be segmented
├── WeightsError     weights that are damaged or belong to another network
├── NotFiniteError   a network whose outputs are infinite or no numbers
├── RunError         a run folder that is missing, taken or damaged
└── SearchError      impossible budgets and the like
"""

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """Says what is wrong, the nearest valid value and the cure, in one line."""


class ArchError(UserError, ValueError):
    pass


class SpaceError(UserError, ValueError):
    pass


class DeviceError(UserError, ValueError):
    pass


class TargetError(UserError):
    """`transient` tells trouble that may pass (a lost connection, a timeout) from what will not."""

    def __init__(self, message: str, *, transient: bool = False) -> None:
        super().__init__(message)
        self.transient = transient


class TableError(UserError, ValueError):
    pass


class PredictorError(UserError, ValueError):
    pass


class DataError(UserError, ValueError):
    pass


class ImageError(UserError, ValueError):
    pass


class WeightsError(UserError, ValueError):
    pass


class NotFiniteError(UserError):
    pass


class RunError(UserError):
    pass


class SearchError(UserError):
    pass


def check_choice(
    name: str, value: object, choices: Iterable[str], error: type[UserError] = UserError
) -> None:
    """Raise `error`, with the nearest choice, unless `value` is one of `choices`."""
    choices = list(choices)
    if value not in choices:
        raise error(f"no {name} {value!r}{nearest(str(value), choices)}")


def reason_of(error: BaseException) -> str:
    """The first line of what a library raised, or what kind of error it is if it says nothing."""
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__


def nearest(value: str, choices: Iterable[str]) -> str:
    """`; did you mean 'x'? (choose from x, y, z)`, to end an error with."""
    choices = list(choices)
    listed = ", ".join(choices[:12]) + (", …" if len(choices) > 12 else "")
    if value.isdecimal() and choices and all(choice.isdecimal() for choice in choices):
        meant: str | None = min(choices, key=lambda choice: abs(int(choice) - int(value)))
    else:
        lower = {choice.lower(): choice for choice in choices}
        close = difflib.get_close_matches(value.lower(), lower, n=1, cutoff=0.5)
        meant = lower[close[0]] if close else None
    return (f"; did you mean {meant!r}?" if meant else "") + f" (choose from {listed})"
