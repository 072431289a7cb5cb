"""Server without a network: endpoints in one process that forward messages as the server does, byte for byte."""


class Wire:
    """Keeps messages for the trainer, forwards broadcasts to every worker, and remembers the last broadcast.

    Attributes:
        for_trainer: Messages that the trainer has not fetched yet.
        workers: Endpoints of the workers.
        last: The last broadcast, which late workers receive; None if there was none.
        cut: Whether messages of workers get lost.
    """

    def __init__(self):
        self.for_trainer, self.workers, self.last, self.cut = [], [], None, False

    def trainer(self, *_):
        return _TrainerEndpoint(self)

    def worker(self, *_):
        endpoint = _WorkerEndpoint(self)
        self.workers.append(endpoint)
        if self.last is not None:
            endpoint.inbox.append(self.last)
        return endpoint

    def lose_everything(self):
        """Lose all messages, as a server that is killed does."""
        self.for_trainer, self.last = [], None


class _TrainerEndpoint:
    def __init__(self, wire):
        self._wire, self.stopped = wire, False

    def notify(self, groups):
        assert groups == {"trainers": -1}

    def receive_all(self):
        inbox, self._wire.for_trainer = self._wire.for_trainer, []
        return inbox

    def broadcast(self, message, group):
        assert group == "workers" and isinstance(message, bytes)
        self._wire.last = message
        for worker in self._wire.workers:
            worker.inbox.append(message)

    def stop(self):
        self.stopped = True


class _WorkerEndpoint:
    def __init__(self, wire):
        self._wire, self.inbox, self.stopped = wire, [], False

    def receive_all(self):
        inbox, self.inbox = self.inbox, []
        return inbox

    def produce(self, message, group):
        assert group == "trainers" and isinstance(message, bytes)
        if not self._wire.cut:
            self._wire.for_trainer.append(message)

    def stop(self):
        self.stopped = True
