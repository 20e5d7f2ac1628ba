"""Packages that only some commands need."""

from importlib.util import find_spec

from results.errors import UserError


def require(extra: str, *modules: str) -> None:
    """Raise UserError, with what to install, unless all of an extra's `modules` are here."""
    for module in modules:
        if find_spec(module) is None:
            raise UserError(f'{module} is missing; install it with `pip install -e ".[{extra}]"`')
