"""The images of one ScoreMany that have no answer yet, over as many calls as it takes."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from itertools import count
from threading import Lock

from client.errors import ScoringError
from protos import scoring_pb2

Make = Callable[[], scoring_pb2.ScoreRequest]


class Outstanding:
    """Requests that are made one by one as they are sent, and sent again where a server has gone."""

    def __init__(self, items: Iterable[tuple[str, Make]]) -> None:
        """Take (name, what makes the request); a ScoringError of the latter is that item's own."""
        self._items = iter(items)
        self._names: dict[str, str] = {}
        self._sent: dict[str, scoring_pb2.ScoreManyRequest] = {}
        self._numbers = count()
        self._call = 0
        self._lock = Lock()
        self.unreadable = deque[tuple[str, ScoringError]]()
        self.raised: Exception | None = None
        """What the items themselves raised: it ends everything."""

    def requests(self) -> Iterator[scoring_pb2.ScoreManyRequest]:
        """What a new call is to send: what has no answer, then the rest. A call before it gets no more."""
        with self._lock:
            self._call += 1
            call, again = self._call, list(self._sent.values())
        yield from again
        while True:
            with self._lock:
                made = self._next() if call == self._call else None
            if made is None:
                return
            yield made

    def answered(self, number: str) -> str:
        """Forget a request that was answered; its name."""
        with self._lock:
            del self._sent[number]
            return self._names.pop(number)

    def _next(self) -> scoring_pb2.ScoreManyRequest | None:
        try:
            for name, make in self._items:
                try:
                    request = make()
                except ScoringError as error:
                    self.unreadable.append((name, error))
                    continue
                number = str(next(self._numbers))
                self._names[number] = name
                self._sent[number] = scoring_pb2.ScoreManyRequest(id=number, request=request)
                return self._sent[number]
        except Exception as error:
            self.raised = error
            raise
        return None
