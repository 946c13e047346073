"""Networks that enlarge maps in ways that no slide of the window allows are refused with the reason."""

from pathlib import Path

import pytest
from support.upsampling_networks import SMALLER, UNPADDED, Nodes, convert, graph
from support.written_graphs import node

from converter.errors import ConversionError

REFUSED: dict[str, tuple[Nodes, str]] = {
    "other factor": (
        [*UNPADDED, "Resize: x _ _ ten -> m"],
        "node 'm' (Resize): expected to enlarge rows and columns by integer factors, got 8×8 to 10×10",
    ),
    "smaller": (
        [*UNPADDED, "Resize: x _ half -> m"],
        "node 'm' (Resize): expected to enlarge rows and columns by integer factors, got 8×8 to 4×4",
    ),
    "corners": (
        [
            *UNPADDED,
            SMALLER,
            node("Resize: s _ double -> m", mode="linear", coordinate_transformation_mode="align_corners"),
        ],
        "node 'm' (Resize): expected another coordinate transformation than 'align_corners', whose positions depend on",
    ),
    "crop": (
        [
            *UNPADDED,
            SMALLER,
            node("Resize: s part double -> m", coordinate_transformation_mode="tf_crop_and_resize"),
        ],
        "node 'm' (Resize): expected another coordinate transformation than 'tf_crop_and_resize', which cuts a part",
    ),
    "shuffled pixels": (
        ["Conv: image n48 -> c", node("DepthToSpace: c -> r", blocksize=4), "Conv: r k3 -> m"],
        "node 'm_cells_1' (DepthToSpace): expected a factor that divides the 1 pixels between the elements of its",
    ),
    "shuffled summary": (
        [
            *UNPADDED,
            node("GlobalAveragePool: x -> a"),
            node("DepthToSpace: a -> r", blocksize=2),
            "Conv: r n4 -> m",
        ],
        "node 'm' (Conv): mixes a summary of the whole map back into the map",
    ),
    "rows and columns of channels": (
        [
            *UNPADDED,
            SMALLER,
            "Reshape: s columns -> t",
            node("Transpose: t -> u", perm=[0, 1, 3, 4, 2]),
            "Reshape: u wide -> r",
            "Conv: r k1 -> m",
        ],
        "node 'm' (Conv): expected a map (N, C, height, width), got positions in another order: (1, 1, 4, 16)",
    ),
    "half pixels": (
        ["Resize: image _ double -> r", "Conv: r k3 -> m"],
        "node 'r' (Resize): expected a factor that divides the 1 pixels between the elements of its input, got 2",
    ),
    "summary": (
        [*UNPADDED, node("GlobalAveragePool: x -> a"), "Resize: a _ _ eight -> r", "Add: x r -> m"],
        "node 'r' (Resize): mixes a summary of the whole map back into the map",
    ),
    "transposed summary": (
        [*UNPADDED, node("GlobalMaxPool: x -> a"), node("ConvTranspose: a t2 -> m")],
        "node 'm' (ConvTranspose): mixes a summary of the whole map back into the map",
    ),
}


@pytest.mark.parametrize(("nodes", "expected_message"), REFUSED.values(), ids=REFUSED)
def test_maps_that_cannot_be_enlarged(tmp_path: Path, nodes: Nodes, expected_message: str) -> None:
    """The refusal names the node and the reason, and nothing is written."""
    with pytest.raises(ConversionError) as caught:
        convert(graph(nodes), tmp_path)
    assert str(caught.value).startswith(expected_message)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "net").exists()
