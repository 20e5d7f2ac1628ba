"""The host that a `--target` names."""

import difflib
import re

from lut.targets.adb import Adb, check_serial, only_serial
from lut.targets.host import Host
from lut.targets.local import Local
from lut.targets.ssh import Ssh
from results.errors import TargetError, shown

FORMS = "local, ssh://[user@]host[:port], adb, adb:SERIAL"

# No leading dash: ssh would take it for an option. Users of a domain hold an @ or a backslash.
_SSH = re.compile(
    r"ssh://(?P<user>\w[\w.+\\$@-]*@)?"
    r"(?:\[(?P<ipv6>[0-9A-Fa-f:.]+(?:%\w[\w.-]*)?)\]|(?P<host>\w[\w.-]*))"
    r"(?::(?P<port>[0-9]{1,5}))?/?"
)


def get_host(target: str, *, python: str | None = None) -> Host:
    """Return the host that `target` names.

    That is `local`, `ssh://[user@]host[:port]`, `adb` for the only phone, or `adb:SERIAL`.

    `python` is the interpreter there, where it is not the usual one. Raises TargetError for any
    other form, with the nearest, and for a phone that is not attached.
    """
    if target == "local":
        return Local(python=python) if python else Local()
    if match := _SSH.fullmatch(target):
        address = f"{match['user'] or ''}{match['ipv6'] or match['host']}"
        port = int(match["port"]) if match["port"] else None
        if port is not None and not 0 < port < 65536:
            raise TargetError(f"no port {port} of a target; it is 1 to 65535, and 22 by default")
        return Ssh(address, port=port, python=python or "python3")
    if target == "adb":
        return Adb(only_serial(), python=python or "python3")
    if match := re.fullmatch(r"adb:([^-].*)", target):
        serial = match[1]
        check_serial(serial)  # whatever adb lists is one
        return Adb(serial, python=python or "python3")
    address = re.sub(r"^ssh(?::/*|/+)", "", target, flags=re.IGNORECASE)
    if re.match(r"[^@/]*:.*@", address):  # not repeated: it would end up in logs
        raise TargetError("a target holds no password: use a key, and ssh://[user@]host[:port]")
    scheme = difflib.get_close_matches(target[:6].lower(), ("local", "ssh://", "adb:"), 1, 0.4)
    meant = {"local": "local", "ssh://": "ssh://[user@]host[:port]", "adb:": "adb:SERIAL"}
    hint = f"; did you mean {meant[scheme[0]]}?" if scheme else ""
    raise TargetError(f"no target {shown(target)}{hint} (choose from {FORMS})")
