"""The images of one ScoreMany that have no answer yet, over as many calls as it takes."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from itertools import count
from threading import Lock

from fullconv.errors import ScoringError
from fullconv.protos import scoring_pb2
from fullconv.remote.retries import StreamEndedError

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
        self._taken = False
        """Whether there are no more items."""
        self._taking, self._lock = Lock(), Lock()
        """Of the items, which may block; and of what was sent, which never does."""
        self._left = deque[tuple[str, scoring_pb2.ScoreManyRequest]]()
        """Made for a call that had ended meanwhile."""
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
            with self._taking:
                made = self._left.popleft() if self._left else self._next()
                if made is None or not self._is_sent(made, call):
                    return
            yield made[1]

    def answered(self, number: str) -> str:
        """Forget a request that was answered; its name."""
        with self._lock:
            del self._sent[number]
            return self._names.pop(number)

    def check_complete(self) -> None:
        """Raise StreamEndedError unless every item was taken and has its answer."""
        with self._lock:
            if not self._taken or self._sent or self._left:
                raise StreamEndedError

    def _is_sent(self, made: tuple[str, scoring_pb2.ScoreManyRequest], call: int) -> bool:
        """Whether a request goes out with this call; if there is a newer one, it is left to that."""
        with self._lock:
            if call != self._call:
                self._left.append(made)
                return False
            self._names[made[1].id], self._sent[made[1].id] = made[0], made[1]
            return True

    def _next(self) -> tuple[str, scoring_pb2.ScoreManyRequest] | None:
        try:
            for name, make in self._items:
                try:
                    request = make()
                except ScoringError as error:
                    self.unreadable.append((name, error))
                    continue
                return name, scoring_pb2.ScoreManyRequest(id=str(next(self._numbers)), request=request)
        except Exception as error:
            self.raised = error
            raise
        self._taken = True
        return None
