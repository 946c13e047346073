"""The calls that `Client` and `Scorer` have in common, over a transport."""

from collections.abc import Iterable, Iterator
from functools import cache, partial
from types import TracebackType
from typing import Any, Self, Unpack

from fullconv.answer import Answer
from fullconv.decode import answer_of, description_of, models_of, scored_pixels
from fullconv.description import ModelDescription
from fullconv.encode import model_request, score_request
from fullconv.errors import RequestError, ScoringError
from fullconv.images import Image, ImageSource, source_of
from fullconv.options import Options
from fullconv.protos import scoring_pb2
from fullconv.stream import ScoreStream
from fullconv.transport import ManyItem, ProgressCallback, Transport, WholeAnswer, ignore_progress


class BaseScorer:
    """Scores images over a transport. `image` is a path, bytes, an array, a PIL image or an open binary file."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self._described = cache(self.model)

    def score(
        self,
        image: Image,
        *,
        model: str,
        version: str = "",
        timeout: float | None = None,
        **options: Unpack[Options],
    ) -> Answer:
        """Score one image.

        Args:
            image: A path, bytes, a numpy or Zarr array, a PIL image or an open binary file.
            model: Name of the model.
            version: Version of the model. Default: the highest.
            timeout: Seconds that the call may take. Default: the timeout of the constructor.
            options: See `fullconv.options.Options`.

        Raises:
            ImageError: This image cannot be used.
            RequestError: The model, the version or an option is invalid.
            UnavailableError: There is no answer; for example, no server can be reached.
        """
        request, source = score_request(model, version, options), source_of(image)
        return self._answer(request, source, self._transport.score(request, source, timeout))

    def score_large(
        self,
        image: Image,
        *,
        model: str,
        version: str = "",
        timeout: float | None = None,
        progress: ProgressCallback = ignore_progress,
        **options: Unpack[Options],
    ) -> ScoreStream:
        """Begin to score one image of any size, and return the stream from which the rows of its grid are taken.

        A file or an array is read part by part, and neither the image nor the grid is held in memory as a whole. The
        other parameters and the errors are the same as for `score`; the stream raises the same errors.

        Args:
            progress: A function that is called with the current activity ("sending" or "scoring"), the amount that is
                done, and the total amount.
        """
        request, source = score_request(model, version, options), source_of(image)
        responses = self._transport.stream(request, source, timeout, progress)
        return ScoreStream(responses, lambda response: self._answer(request, source, WholeAnswer(response)))

    def score_many(
        self,
        images: Iterable[tuple[str, Image] | tuple[str, Image, Options]],
        *,
        model: str,
        version: str = "",
        timeout: float | None = None,
        **options: Unpack[Options],
    ) -> Iterator[tuple[str, Answer | ScoringError]]:
        """Score images, each with an id; yields (id, answer or error) in the order in which they are finished.

        An image that cannot be scored does not stop the others. The other parameters are the same as for `score`.

        Args:
            images: Pairs of an id and an image; a third element holds options of that image alone, such as its mask.
                An image is taken from the iterable when the server has room for it.

        Raises:
            RequestError: An option is invalid, or an element of `images` is not a pair.
            UnavailableError: No server answers.
        """
        items = many_items(images, score_request(model, version, options), options)
        for item, result in self._transport.score_many(items, timeout):
            yield item.name, result if isinstance(result, ScoringError) else self._answer(*item.made, result)

    def plan(
        self,
        image: Image,
        *,
        model: str,
        version: str = "",
        timeout: float | None = None,
        **options: Unpack[Options],
    ) -> Answer:
        """Plan how one image is scored and what that costs, without scoring it.

        Returns an answer with the plan and the windows, without averages. The parameters and the errors are the same as
        for `score`. To count the windows inside a mask, the mask image is read; for "otsu", the image itself is read.
        """
        request, source = score_request(model, version, options), source_of(image)
        request.options.plan_only = True
        return self._answer(request, source, WholeAnswer(self._transport.plan(request, source, timeout)))

    def models(self) -> list[tuple[str, str]]:
        """Return the name and the version of every model, sorted."""
        return models_of(self._transport.models())

    def model(self, name: str, version: str = "") -> ModelDescription:
        """Describe a model: geometry, labels, parity, limits.

        Raises:
            RequestError: There is no such model or version.
            UnavailableError: No server answers.
        """
        return description_of(self._transport.model(model_request(name, version)))

    def close(self) -> None:
        """Release the connection, or the models."""
        self._transport.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _answer(self, request: scoring_pb2.ScoreRequest, source: ImageSource, scored: WholeAnswer) -> Answer:
        return answer_of(
            scored.response,
            scored.rows,
            pixels=scored_pixels(source, request.options),
            describe=partial(self._described, scored.response.model, scored.response.version),
        )


def many_items(
    images: Any,  # noqa: ANN401 (whatever the caller gives)
    request: scoring_pb2.ScoreRequest,
    options: Options,
) -> Iterator[ManyItem]:
    """Yield an item for each image; raises RequestError for an element that is not an id and an image."""
    expected = "images: expected pairs of an id and an image"
    try:
        elements = iter(images)
    except TypeError:
        raise RequestError(f"{expected}, got {type(images).__name__}") from None
    for element in elements:
        if not (isinstance(element, (tuple, list)) and len(element) in (2, 3)):
            raise RequestError(f"{expected}, got {str(element)[:80]!r}")
        name, image, *own = element
        yield ManyItem(name, partial(_prepare, image, request, options, *own))


def _prepare(
    image: Any,  # noqa: ANN401 (whatever the caller gives)
    request: scoring_pb2.ScoreRequest,
    options: Options,
    own: Options | None = None,
) -> tuple[scoring_pb2.ScoreRequest, ImageSource]:
    """Return the request for one image, which includes the options of this image alone, and the image."""
    if own is not None:
        merged: Options = {**options, **own}
        request = score_request(request.model, request.version, merged)
    return request, source_of(image)
