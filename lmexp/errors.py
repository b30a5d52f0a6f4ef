"""Mistakes that a user can mend, said in one sentence."""

from collections.abc import Iterable
from difflib import get_close_matches


class UserError(Exception):
    """A mistake a user can mend. The message says what was wrong, what is allowed and what to type instead.

    The command line prints it without a traceback and exits with code 2.
    """


def unknown(kind: str, name: str, allowed: Iterable[str]) -> UserError:
    """Build the error for a name that does not exist: names the nearest one, and all that are allowed.

    Args:
        kind: what was named, for instance ``"arm of gpt_to_llama"``.
        name: what the user typed.
        allowed: every name that would have been right.
    """
    choices = sorted(allowed)
    near = get_close_matches(name, choices, n=1, cutoff=0.5)
    hint = f"did you mean '{near[0]}'? " if near else ""
    return UserError(f"Unknown {kind} '{name}': {hint}The choices are {', '.join(choices) or '(none)'}.")
