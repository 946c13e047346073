"""Answers of servers without a model: a few windows of one class, whatever the image."""

from fullconv.protos import model_pb2, scoring_pb2


def described(model: str, height: int, width: int, rows: int = 1) -> scoring_pb2.ScoreResponse:
    """Describe an unnamed image of raw pixels with windows below each other, one pixel apart and as wide as the image.

    What is described is all that the start of ScoreLarge has.
    """
    window = model_pb2.Size(height=height - rows + 1, width=width)
    view = scoring_pb2.View(
        image=model_pb2.Size(height=height, width=width),
        cells=model_pb2.Size(height=rows, width=1),
        tiles=1,
        tile=model_pb2.Size(height=height, width=width),
        halo=[0, 0, 0, 0],
    )
    return scoring_pb2.ScoreResponse(
        image=scoring_pb2.ImageInfo(name="image", height=height, width=width),
        model=model,
        version="1",
        mode="dense",
        grid=scoring_pb2.GridInfo(
            rows=rows,
            cols=1,
            stride=model_pb2.Size(height=1, width=1),
            window=window,
            last_y=rows - 1,
            holds=scoring_pb2.GRID_AS_FLOAT32,
            depth=1,
        ),
        classes=[scoring_pb2.Class(index=0, label="0")],
        average=scoring_pb2.Average(of=scoring_pb2.AVERAGE_OF_SCORES),
        plan=scoring_pb2.Plan(views=[view]),
    )


def averaged(model: str, height: int, width: int) -> scoring_pb2.ScoreResponse:
    """Answer for an unnamed image of raw pixels that is a single window, without the grid."""
    response = described(model, height, width)
    response.average.values.append(0.5)
    response.average.top.append(0)
    response.scored_cells = 1
    return response
