"""The one kind of error that is the user's to repair, and any error in few words."""


class UserError(Exception):
    """A mistake of the user's: its text is printed as it is, without a traceback, and the exit code is 1."""


def in_one_line(error: Exception) -> str:
    """Return what an error says, on one line; of one that is no UserError, its kind, too."""
    text = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
    return next(iter(text.splitlines()), "")
