"""Standard output that may go away, where that ends the output and nothing else; and that of jobs side by side."""

import contextlib
import os
import sys
from collections.abc import Iterable, Iterator
from typing import Any, TextIO


class LastingOutput:
    """A text stream whose file is replaced by nothing once it cannot be written any more.

    What a command prints is a record; training must not end with the reader of ``| head`` or a closed terminal.

    Args:
        stream: The stream, such as ``sys.stdout``.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write text; after a failure it is dropped."""
        try:
            return self._stream.write(text)
        except OSError:
            self._replace()
            return len(text)

    def flush(self) -> None:
        """Flush the stream; after a failure what is left of it is dropped."""
        try:
            self._stream.flush()
        except OSError:
            self._replace()

    def __getattr__(self, name: str) -> Any:
        """Return everything else of the stream, such as ``encoding`` and ``isatty``."""
        return getattr(self._stream, name)

    def _replace(self) -> None:
        """Put the null device in the place of the file, so that what is buffered can be written at the end, too."""
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self._stream.fileno())
        os.close(nowhere)


def protect_output() -> None:
    """Let the output of this program go away without ending it; a stream that was closed before it began is one."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)  # None if its file was closed, as by >&-, and with pythonw
        setattr(sys, name, LastingOutput(open(os.devnull, "w", encoding="utf-8") if stream is None else stream))


class PrefixedOutput:
    """A text stream with a prefix at the beginning of every line, so that the lines of parallel jobs can be told apart.

    It is no terminal: the progress bars of several jobs would overwrite each other.

    Args:
        stream: The stream, such as ``sys.stdout``.
        prefix: The prefix, such as "[seed=1] ".
    """

    def __init__(self, stream: TextIO, prefix: str) -> None:
        self._stream, self._prefix, self._line = stream, prefix, ""

    def write(self, text: str) -> int:
        """Write the lines that end in a text, and keep the rest for later, so that no other job breaks a line."""
        *lines, self._line = f"{self._line}{text}".split("\n")
        if lines:
            self._stream.write("".join(f"{self._prefix}{line}\n" for line in lines))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        """Write several texts, each as ``write`` does."""
        self.write("".join(lines))

    def end(self) -> None:
        """Write what is left of a line."""
        if self._line:
            self.write("\n")

    def isatty(self) -> bool:
        """Return False."""
        return False

    def __getattr__(self, name: str) -> Any:
        """Return everything else of the stream, such as ``encoding`` and ``flush``."""
        return getattr(self._stream, name)


@contextlib.contextmanager
def prefixed_output(prefix: str) -> Iterator[None]:
    """Begin every line of the standard output with a prefix; an empty one changes nothing."""
    if not prefix:
        yield
        return
    output = PrefixedOutput(sys.stdout, prefix)
    try:
        with contextlib.redirect_stdout(output):
            yield
    finally:
        output.end()
