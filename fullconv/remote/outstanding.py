"""The images of one `score_many` that have no answer yet, across all its calls to servers."""

from collections import deque
from collections.abc import Iterable, Iterator
from itertools import count
from threading import Lock

from fullconv.encode import with_image
from fullconv.errors import ScoringError
from fullconv.protos import scoring_pb2
from fullconv.remote.retries import StreamEndedError
from fullconv.transport import ManyItem

Sent = tuple[ManyItem, scoring_pb2.ScoreManyRequest]


class Outstanding:
    """Requests without an answer. Each is made when it is sent, and sent again if its server goes away."""

    def __init__(self, items: Iterable[ManyItem]) -> None:
        """Take the items; a ScoringError that is raised while a request is made belongs to that item alone."""
        self._items = iter(items)
        self._sent: dict[str, Sent] = {}
        """The requests that were sent, by their numbers in the stream."""
        self._numbers = count()
        self._call = 0
        self._exhausted = False
        """Whether there are no more items."""
        self._items_lock = Lock()
        """Held while an item is taken, which may block."""
        self._sent_lock = Lock()
        """Held while the requests that were sent are read or changed, which never blocks."""
        self._left_over = deque[Sent]()
        """Requests that were made for a call that ended before they were sent."""
        self.unusable = deque[tuple[ManyItem, ScoringError]]()
        """Items whose request could not be made, and the errors."""
        self.raised: Exception | None = None
        """Any other exception that the iterable of items has raised; it ends `score_many`."""

    def requests(self) -> Iterator[scoring_pb2.ScoreManyRequest]:
        """Yield the requests of a new call: first requests without an answer, then new requests. Earlier calls end."""
        with self._sent_lock:
            self._call += 1
            call, again = self._call, [request for _, request in self._sent.values()]
        yield from again
        while True:
            with self._items_lock:
                made = self._left_over.popleft() if self._left_over else self._make_next()
                if made is None or not self._belongs_to(call, made):
                    return
            yield made[1]

    def answered(self, number: str) -> ManyItem:
        """Forget the request with a number, and return its item."""
        with self._sent_lock:
            return self._sent.pop(number)[0]

    def check_complete(self) -> None:
        """Raise StreamEndedError unless every item was taken and has its answer."""
        with self._sent_lock:
            if not self._exhausted or self._sent or self._left_over:
                raise StreamEndedError

    def _belongs_to(self, call: int, made: Sent) -> bool:
        """Record that a call sends a request, and return True; False if a newer call exists, which will send it."""
        with self._sent_lock:
            if call != self._call:
                self._left_over.append(made)
                return False
            self._sent[made[1].id] = made
            return True

    def _make_next(self) -> Sent | None:
        """Make the next request; None when there are no more items."""
        try:
            for item in self._items:
                try:
                    request = with_image(*item.request())
                except ScoringError as error:
                    self.unusable.append((item, error))
                    continue
                return item, scoring_pb2.ScoreManyRequest(id=str(next(self._numbers)), request=request)
        except Exception as error:
            self.raised = error
            raise
        self._exhausted = True
        return None
