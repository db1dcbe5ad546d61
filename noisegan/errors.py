"""The one exception type for mistakes a user can mend.

Its message is one clear sentence: what was wrong, where, what is allowed, what to do. The command line prints it
without a traceback and exits with status 2.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class NoiseganError(Exception):
    """Something the user can mend; `str(error)` is written for them."""


class Interrupted(NoiseganError):
    """The user stopped a run; its state is saved and the message says how to go on."""


def near_match(name: str, known: Iterable[str]) -> str:
    """A hint such as `; did you mean 'fuzzy'?`, or the list of what there is."""
    known = sorted(known)
    close = difflib.get_close_matches(name.lower(), known, n=2, cutoff=0.6)
    if close:
        return "; did you mean " + " or ".join(repr(k) for k in close) + "?"
    return "; known: " + ", ".join(known) if known else ""
