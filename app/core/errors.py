"""The error for mistakes of the user, and a one-line summary of any error."""


class UserError(Exception):
    """A mistake of the user: its text is printed without a traceback, and the exit code is 1."""


def format_error(error: Exception) -> str:
    """Return the first line of an error's text; with its type, if it is not a UserError."""
    text = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
    return next(iter(text.splitlines()), "")
