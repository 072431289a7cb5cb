"""Transport of twisted without a network."""

from types import SimpleNamespace

from twisted.internet.testing import StringTransport

from app.distributed.wire_format import FrameReader, loads


class FakeTransport(StringTransport):
    """Keeps what is written to it, and has a socket for its options."""

    def __init__(self):
        super().__init__()
        self.socket = SimpleNamespace(setsockopt=lambda *_: None)

    def abortConnection(self):  # noqa: N802 (twisted's name)
        self.disconnecting = True

    def messages(self, secret=b""):
        """Return and remove the messages that were written."""
        data = self.value()
        self.clear()
        return [loads(message) for message in FrameReader(secret).feed(data)]
