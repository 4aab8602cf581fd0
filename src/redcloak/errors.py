"""The one kind of error a user is meant to see."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """A mistake that the user can mend, printed as one line without a traceback (exit status 2).

    The message names the field, its value, what is wrong with it, and the fix.
    """

    def __str__(self) -> str:
        """The message on one line, whatever the cause put into it."""
        return " ".join(super().__str__().split())


def unknown(kind: str, name: str, known: Iterable[str], hint: str = "") -> UserError:
    """Build the error for a name that does not exist, with the nearest names that do."""
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=2, cutoff=0.5)
    guess = f"did you mean {' or '.join(map(repr, near))}?" if near else f"known: {', '.join(names) or 'none'}."
    return UserError(f"unknown {kind} {name!r}: {guess}{' ' + hint if hint else ''}")
