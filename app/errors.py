"""The one kind of error that is the user's to repair."""


class UserError(Exception):
    """A mistake of the user's: its text is printed as it is, without a traceback, and the exit code is 1."""
