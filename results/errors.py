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
├── PictureError     a plot that cannot be drawn, though its numbers are there
└── SearchError      impossible budgets and the like
"""

import difflib
import re
import unicodedata
from collections.abc import Iterable, Mapping
from urllib.parse import unquote

LEAST_PART = 4  # characters of a secret that nobody may read
MOST_CHARACTERS = 1200  # of one line; a path may have some hundred


class UserError(Exception):
    """Says what is wrong, the nearest valid value and the cure, in one line.

    What files and tools brought into it cannot make it longer than a screen, move a terminal's
    cursor, or show a password.
    """

    def __str__(self) -> str:
        return one_line(super().__str__())


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


class PictureError(UserError):
    pass


class SearchError(UserError):
    pass


class Interrupted(KeyboardInterrupt):
    """Ctrl-C in work that goes on later; the text says how."""


def check_choice(
    name: str, value: object, choices: Iterable[str], error: type[UserError] = UserError
) -> None:
    """Raise `error`, with the nearest choice, unless `value` is one of `choices`."""
    choices = list(choices)
    if value not in choices:
        raise error(f"no {name} {shown(value)}{nearest(str(value), choices)}")


def check_least(
    name: str, value: float | None, least: float, error: type[UserError] = UserError
) -> None:
    """Raise `error`, which tells `name`, unless `value` is `least` or more, or None.

    >>> check_least("--steps", None, 1)
    >>> check_least("--steps", 0, 1)
    Traceback (most recent call last):
        ...
    results.errors.UserError: --steps must be 1 or more, not 0
    """
    if value is not None and not value >= least:  # NaN is refused too
        raise error(f"{name} must be {least} or more, not {value}")


def check_all_least(
    options: object, least: Mapping[str, float], error: type[UserError] = UserError
) -> None:
    """Raise `error` for the first of `options` below its value in `least`, naming its flag.

    >>> from types import SimpleNamespace
    >>> check_all_least(SimpleNamespace(batch_size=0), {"batch_size": 1})
    Traceback (most recent call last):
        ...
    results.errors.UserError: --batch-size must be 1 or more, not 0
    """
    for name, value in least.items():
        check_least(f"--{name.replace('_', '-')}", getattr(options, name), value, error)


def reason_of(error: BaseException) -> str:
    """Return the first line of what a library raised, or its kind where it says nothing."""
    lines = str(error).strip().splitlines()
    return shortened(lines[0], 200) if lines else type(error).__name__


def shown(value: object, most: int = 80) -> str:
    """Return the repr of a value that a file holds, for an error: at most `most` characters.

    >>> shown("x" * 1000, most=12)
    "'xxxxx…xxxx'"
    """
    # The repr of a large value is never made: a list of a million numbers takes seconds.
    text = value if isinstance(value, str) else None
    if text is not None and len(text) > 2 * most:
        value = text[:most] + text[-most:]
    elif isinstance(value, int) and abs(value) >= 10**18:
        return f"a number of {int(value.bit_length() * 0.30103) + 1} digits"
    elif isinstance(value, list | tuple | dict | set) and len(value) > most:
        return f"a {type(value).__name__} of {len(value)}"
    try:
        return shortened(repr(value), most)
    except (RecursionError, ValueError):
        return f"a {type(value).__name__}"


def shortened(text: str, most: int) -> str:
    """Return a text of at most `most` characters, with `…` for what is left out in its middle."""
    if len(text) <= most:
        return text
    end = (most - 1) // 2
    return text[: most - 1 - end] + "…" + text[len(text) - end :]


def one_line(text: str) -> str:
    """Return a text as one line for a terminal: printable, of bounded length, without passwords."""
    return shortened(masked(printable(text)), MOST_CHARACTERS)


def printable(text: str) -> str:
    """Return a text on one line, with escapes for control characters and their like.

    >>> printable("a\\x1b[2Jb\\n  c")
    'a\\\\x1b[2Jb c'
    """
    return escaped(" ".join(text.split()))


def escaped(text: str) -> str:
    """Return a text as `printable` does, with its lines and spaces as they are."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c == "\n" else _escape(c) for c in text)


def _escape(character: str) -> str:
    code = ord(character)
    if unicodedata.category(character) == "Zs":  # a wide or narrow space
        return character
    if 0xDC80 <= code <= 0xDCFF:  # a byte of a file's name that is no UTF-8
        return f"\\x{code - 0xDC00:02x}"
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


# One slash is what a path makes of two; without a scheme as ssh takes it, u:password@host. Each
# begins where a word does, so that long texts take no longer than they are long.
_USER = re.compile(r"(?<![\w+.-])(\w[\w+.-]*:/{1,3}[^\s/:@?#'\"]*):[^\s'\"]*@")
_BARE_USER = re.compile(r"(?<![\w:/.+@*-])(\w[\w.+-]*):(?![/\\*])[^\s'\"]*@")
_TOKEN = re.compile(r"(https?:/{1,2})[\w-]{16,}@")  # a key in the place of a user
_QUERY = re.compile(
    r"(?<![^\s=&;?#'\"(\[{,])([^\s=&;?#'\"(\[{,]*?(?:passw(?:or)?d|passphrase|(?<![a-z])pass|pwd|secret"
    r"|token|signature|credential|(?<![a-z])sig|(?<![a-z])auth(?:orization)?"
    r"|(?:api|access|account|private|subscription|session)[_-]?key(?:[_-]?id)?)"
    r"(?:[_-][^\s=&;'\"]{0,80})?=)[^\s&;'\"]*",
    re.IGNORECASE,
)


def masked(text: str) -> str:
    """Return a text with `***` for the passwords of the URLs in it.

    >>> masked("mysql://me:x@y@host/db?ssl=1&password=z")
    'mysql://me:***@host/db?ssl=1&password=***'
    """
    if "@" in text:
        text = _BARE_USER.sub(r"\1:***@", _USER.sub(r"\1:***@", text))
    return _QUERY.sub(r"\1***", _TOKEN.sub(r"\1***@", text))


def without_secrets(reason: str, url: str) -> str | None:
    """Return what a library said of a URL with `***` for its secrets, None where a part remains.

    Libraries quote the part that they stumble over, which may be an end of the password.
    """
    secrets = {text for secret in secrets_of(url) for text in (secret, unquote(secret))}
    for secret in sorted(secrets, key=len, reverse=True):
        reason = reason.replace(secret, "***") if len(secret) > 2 else reason
    parts = {text[i : i + LEAST_PART] for text in secrets for i in range(len(text))}
    lower = reason.lower()
    shows = any(part.lower() in lower for part in parts if len(part) == LEAST_PART)
    return None if shows else reason


def secrets_of(url: str) -> list[str]:
    """Return what nobody may read in a URL: its password, whatever signs that holds, and query.

    >>> secrets_of("mysql://me:x/@:y@host/db?ssl=1")
    ['x/@:y', 'ssl=1']
    """
    _, password, _, query = _parts(url)
    return [secret for secret in (password, query) if secret]


def masked_word(word: str) -> str:
    """Return a word of a command line with `***` for the secrets in it."""
    return masked_url(word) if "://" in word else masked(word)


def masked_url(url: str) -> str:
    """Return a URL alone with `***` for its secrets, those too that `masked` cannot tell apart.

    >>> masked_url("mysql://me:x y@host/db?ssl=1")
    'mysql://me:***@host/db?***'
    """
    start, password, middle, query = _parts(url)
    return masked(start + "***" * bool(password) + middle + "***" * bool(query))


def _parts(url: str) -> tuple[str, str, str, str]:
    """Split a URL into what comes up to its password, the password, the rest, and its query."""
    scheme, slashes, rest = url.partition("://") if "://" in url else ("", "", url)
    user, at, host = rest.rpartition("@")
    name, colon, password = user.partition(":")
    host, mark, query = host.partition("?")
    return scheme + slashes + name + colon, password, at + host + mark, query


def nearest(value: str, choices: Iterable[str]) -> str:
    """Return `; did you mean 'x'? (choose from x, y, z)`, the end of an error."""
    choices, value = list(choices), value[:100]
    listed = ", ".join(choices[:12]) + (", …" if len(choices) > 12 else "")
    if value.isdecimal() and choices and all(choice.isdecimal() for choice in choices):
        meant: str | None = min(choices, key=lambda choice: abs(int(choice) - int(value)))
    else:
        lower = {choice.lower(): choice for choice in choices}
        close = difflib.get_close_matches(value.lower(), lower, n=1, cutoff=0.5)
        meant = lower[close[0]] if close else None
    return (f"; did you mean {meant!r}?" if meant else "") + f" (choose from {listed})"
