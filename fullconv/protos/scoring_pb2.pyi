from fullconv.protos import model_pb2 as _model_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Priority(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    PRIORITY_UNSPECIFIED: _ClassVar[Priority]
    PRIORITY_LOW: _ClassVar[Priority]
    PRIORITY_NORMAL: _ClassVar[Priority]
    PRIORITY_HIGH: _ClassVar[Priority]

class Mode(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    MODE_UNSPECIFIED: _ClassVar[Mode]
    MODE_DENSE: _ClassVar[Mode]
    MODE_CROPS: _ClassVar[Mode]
    MODE_AUTO: _ClassVar[Mode]
    MODE_SHARED: _ClassVar[Mode]
    MODE_EXACT: _ClassVar[Mode]

class Border(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    BORDER_UNSPECIFIED: _ClassVar[Border]
    BORDER_LATTICE: _ClassVar[Border]
    BORDER_ANCHOR: _ClassVar[Border]

class GridAs(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    GRID_AS_UNSPECIFIED: _ClassVar[GridAs]
    GRID_AS_FLOAT32: _ClassVar[GridAs]
    GRID_AS_FLOAT16: _ClassVar[GridAs]
    GRID_AS_TOP: _ClassVar[GridAs]
    GRID_AS_ARGMAX: _ClassVar[GridAs]

class AverageOf(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    AVERAGE_OF_UNSPECIFIED: _ClassVar[AverageOf]
    AVERAGE_OF_SCORES: _ClassVar[AverageOf]
    AVERAGE_OF_PROBABILITIES: _ClassVar[AverageOf]
PRIORITY_UNSPECIFIED: Priority
PRIORITY_LOW: Priority
PRIORITY_NORMAL: Priority
PRIORITY_HIGH: Priority
MODE_UNSPECIFIED: Mode
MODE_DENSE: Mode
MODE_CROPS: Mode
MODE_AUTO: Mode
MODE_SHARED: Mode
MODE_EXACT: Mode
BORDER_UNSPECIFIED: Border
BORDER_LATTICE: Border
BORDER_ANCHOR: Border
GRID_AS_UNSPECIFIED: GridAs
GRID_AS_FLOAT32: GridAs
GRID_AS_FLOAT16: GridAs
GRID_AS_TOP: GridAs
GRID_AS_ARGMAX: GridAs
AVERAGE_OF_UNSPECIFIED: AverageOf
AVERAGE_OF_SCORES: AverageOf
AVERAGE_OF_PROBABILITIES: AverageOf

class ScoreRequest(_message.Message):
    __slots__ = ("model", "version", "image", "options")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    IMAGE_FIELD_NUMBER: _ClassVar[int]
    OPTIONS_FIELD_NUMBER: _ClassVar[int]
    model: str
    version: str
    image: Image
    options: ScoreOptions
    def __init__(self, model: _Optional[str] = ..., version: _Optional[str] = ..., image: _Optional[_Union[Image, _Mapping]] = ..., options: _Optional[_Union[ScoreOptions, _Mapping]] = ...) -> None: ...

class Image(_message.Message):
    __slots__ = ("name", "encoded", "raw", "path")
    NAME_FIELD_NUMBER: _ClassVar[int]
    ENCODED_FIELD_NUMBER: _ClassVar[int]
    RAW_FIELD_NUMBER: _ClassVar[int]
    PATH_FIELD_NUMBER: _ClassVar[int]
    name: str
    encoded: bytes
    raw: RawImage
    path: str
    def __init__(self, name: _Optional[str] = ..., encoded: _Optional[bytes] = ..., raw: _Optional[_Union[RawImage, _Mapping]] = ..., path: _Optional[str] = ...) -> None: ...

class RawImage(_message.Message):
    __slots__ = ("height", "width", "channels", "dtype", "data")
    HEIGHT_FIELD_NUMBER: _ClassVar[int]
    WIDTH_FIELD_NUMBER: _ClassVar[int]
    CHANNELS_FIELD_NUMBER: _ClassVar[int]
    DTYPE_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    height: int
    width: int
    channels: int
    dtype: str
    data: bytes
    def __init__(self, height: _Optional[int] = ..., width: _Optional[int] = ..., channels: _Optional[int] = ..., dtype: _Optional[str] = ..., data: _Optional[bytes] = ...) -> None: ...

class ScoreOptions(_message.Message):
    __slots__ = ("average", "top", "classes", "grid", "stride", "mode", "border", "region", "mask_image", "mask_otsu", "mask_areas", "flip", "scales", "grid_as", "grid_top", "plan_only", "priority", "bands", "page", "min_agreement", "microns_per_pixel", "level", "magnification")
    AVERAGE_FIELD_NUMBER: _ClassVar[int]
    TOP_FIELD_NUMBER: _ClassVar[int]
    CLASSES_FIELD_NUMBER: _ClassVar[int]
    GRID_FIELD_NUMBER: _ClassVar[int]
    STRIDE_FIELD_NUMBER: _ClassVar[int]
    MODE_FIELD_NUMBER: _ClassVar[int]
    BORDER_FIELD_NUMBER: _ClassVar[int]
    REGION_FIELD_NUMBER: _ClassVar[int]
    MASK_IMAGE_FIELD_NUMBER: _ClassVar[int]
    MASK_OTSU_FIELD_NUMBER: _ClassVar[int]
    MASK_AREAS_FIELD_NUMBER: _ClassVar[int]
    FLIP_FIELD_NUMBER: _ClassVar[int]
    SCALES_FIELD_NUMBER: _ClassVar[int]
    GRID_AS_FIELD_NUMBER: _ClassVar[int]
    GRID_TOP_FIELD_NUMBER: _ClassVar[int]
    PLAN_ONLY_FIELD_NUMBER: _ClassVar[int]
    PRIORITY_FIELD_NUMBER: _ClassVar[int]
    BANDS_FIELD_NUMBER: _ClassVar[int]
    PAGE_FIELD_NUMBER: _ClassVar[int]
    MIN_AGREEMENT_FIELD_NUMBER: _ClassVar[int]
    MICRONS_PER_PIXEL_FIELD_NUMBER: _ClassVar[int]
    LEVEL_FIELD_NUMBER: _ClassVar[int]
    MAGNIFICATION_FIELD_NUMBER: _ClassVar[int]
    average: AverageOf
    top: int
    classes: _containers.RepeatedScalarFieldContainer[str]
    grid: bool
    stride: int
    mode: Mode
    border: Border
    region: Region
    mask_image: Image
    mask_otsu: bool
    mask_areas: Areas
    flip: bool
    scales: _containers.RepeatedCompositeFieldContainer[Scale]
    grid_as: GridAs
    grid_top: int
    plan_only: bool
    priority: Priority
    bands: _containers.RepeatedScalarFieldContainer[int]
    page: int
    min_agreement: float
    microns_per_pixel: float
    level: int
    magnification: float
    def __init__(self, average: _Optional[_Union[AverageOf, str]] = ..., top: _Optional[int] = ..., classes: _Optional[_Iterable[str]] = ..., grid: _Optional[bool] = ..., stride: _Optional[int] = ..., mode: _Optional[_Union[Mode, str]] = ..., border: _Optional[_Union[Border, str]] = ..., region: _Optional[_Union[Region, _Mapping]] = ..., mask_image: _Optional[_Union[Image, _Mapping]] = ..., mask_otsu: _Optional[bool] = ..., mask_areas: _Optional[_Union[Areas, _Mapping]] = ..., flip: _Optional[bool] = ..., scales: _Optional[_Iterable[_Union[Scale, _Mapping]]] = ..., grid_as: _Optional[_Union[GridAs, str]] = ..., grid_top: _Optional[int] = ..., plan_only: _Optional[bool] = ..., priority: _Optional[_Union[Priority, str]] = ..., bands: _Optional[_Iterable[int]] = ..., page: _Optional[int] = ..., min_agreement: _Optional[float] = ..., microns_per_pixel: _Optional[float] = ..., level: _Optional[int] = ..., magnification: _Optional[float] = ...) -> None: ...

class Areas(_message.Message):
    __slots__ = ("polygons",)
    POLYGONS_FIELD_NUMBER: _ClassVar[int]
    polygons: _containers.RepeatedCompositeFieldContainer[Polygon]
    def __init__(self, polygons: _Optional[_Iterable[_Union[Polygon, _Mapping]]] = ...) -> None: ...

class Polygon(_message.Message):
    __slots__ = ("name", "rings")
    NAME_FIELD_NUMBER: _ClassVar[int]
    RINGS_FIELD_NUMBER: _ClassVar[int]
    name: str
    rings: _containers.RepeatedCompositeFieldContainer[Ring]
    def __init__(self, name: _Optional[str] = ..., rings: _Optional[_Iterable[_Union[Ring, _Mapping]]] = ...) -> None: ...

class Ring(_message.Message):
    __slots__ = ("coordinates",)
    COORDINATES_FIELD_NUMBER: _ClassVar[int]
    coordinates: _containers.RepeatedScalarFieldContainer[float]
    def __init__(self, coordinates: _Optional[_Iterable[float]] = ...) -> None: ...

class Region(_message.Message):
    __slots__ = ("x", "y", "width", "height")
    X_FIELD_NUMBER: _ClassVar[int]
    Y_FIELD_NUMBER: _ClassVar[int]
    WIDTH_FIELD_NUMBER: _ClassVar[int]
    HEIGHT_FIELD_NUMBER: _ClassVar[int]
    x: int
    y: int
    width: int
    height: int
    def __init__(self, x: _Optional[int] = ..., y: _Optional[int] = ..., width: _Optional[int] = ..., height: _Optional[int] = ...) -> None: ...

class Scale(_message.Message):
    __slots__ = ("shorter_side", "factor")
    SHORTER_SIDE_FIELD_NUMBER: _ClassVar[int]
    FACTOR_FIELD_NUMBER: _ClassVar[int]
    shorter_side: int
    factor: float
    def __init__(self, shorter_side: _Optional[int] = ..., factor: _Optional[float] = ...) -> None: ...

class ScoreResponse(_message.Message):
    __slots__ = ("image", "model", "version", "mode", "grid", "classes", "average", "parity", "timing", "scores", "positions", "mode_reason", "plan", "scored_cells", "warnings", "further", "areas", "provider", "precision", "own_scores")
    IMAGE_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    MODE_FIELD_NUMBER: _ClassVar[int]
    GRID_FIELD_NUMBER: _ClassVar[int]
    CLASSES_FIELD_NUMBER: _ClassVar[int]
    AVERAGE_FIELD_NUMBER: _ClassVar[int]
    PARITY_FIELD_NUMBER: _ClassVar[int]
    TIMING_FIELD_NUMBER: _ClassVar[int]
    SCORES_FIELD_NUMBER: _ClassVar[int]
    POSITIONS_FIELD_NUMBER: _ClassVar[int]
    MODE_REASON_FIELD_NUMBER: _ClassVar[int]
    PLAN_FIELD_NUMBER: _ClassVar[int]
    SCORED_CELLS_FIELD_NUMBER: _ClassVar[int]
    WARNINGS_FIELD_NUMBER: _ClassVar[int]
    FURTHER_FIELD_NUMBER: _ClassVar[int]
    AREAS_FIELD_NUMBER: _ClassVar[int]
    PROVIDER_FIELD_NUMBER: _ClassVar[int]
    PRECISION_FIELD_NUMBER: _ClassVar[int]
    OWN_SCORES_FIELD_NUMBER: _ClassVar[int]
    image: ImageInfo
    model: str
    version: str
    mode: str
    grid: GridInfo
    classes: _containers.RepeatedCompositeFieldContainer[Class]
    average: Average
    parity: ParityInfo
    timing: Timing
    scores: bytes
    positions: bytes
    mode_reason: str
    plan: Plan
    scored_cells: int
    warnings: _containers.RepeatedScalarFieldContainer[str]
    further: bytes
    areas: _containers.RepeatedCompositeFieldContainer[AreaAverage]
    provider: str
    precision: str
    own_scores: bool
    def __init__(self, image: _Optional[_Union[ImageInfo, _Mapping]] = ..., model: _Optional[str] = ..., version: _Optional[str] = ..., mode: _Optional[str] = ..., grid: _Optional[_Union[GridInfo, _Mapping]] = ..., classes: _Optional[_Iterable[_Union[Class, _Mapping]]] = ..., average: _Optional[_Union[Average, _Mapping]] = ..., parity: _Optional[_Union[ParityInfo, _Mapping]] = ..., timing: _Optional[_Union[Timing, _Mapping]] = ..., scores: _Optional[bytes] = ..., positions: _Optional[bytes] = ..., mode_reason: _Optional[str] = ..., plan: _Optional[_Union[Plan, _Mapping]] = ..., scored_cells: _Optional[int] = ..., warnings: _Optional[_Iterable[str]] = ..., further: _Optional[bytes] = ..., areas: _Optional[_Iterable[_Union[AreaAverage, _Mapping]]] = ..., provider: _Optional[str] = ..., precision: _Optional[str] = ..., own_scores: _Optional[bool] = ...) -> None: ...

class AreaAverage(_message.Message):
    __slots__ = ("name", "cells", "values")
    NAME_FIELD_NUMBER: _ClassVar[int]
    CELLS_FIELD_NUMBER: _ClassVar[int]
    VALUES_FIELD_NUMBER: _ClassVar[int]
    name: str
    cells: int
    values: _containers.RepeatedScalarFieldContainer[float]
    def __init__(self, name: _Optional[str] = ..., cells: _Optional[int] = ..., values: _Optional[_Iterable[float]] = ...) -> None: ...

class Plan(_message.Message):
    __slots__ = ("file", "multiply_adds", "bytes", "views", "decode_bytes", "decode_seconds")
    FILE_FIELD_NUMBER: _ClassVar[int]
    MULTIPLY_ADDS_FIELD_NUMBER: _ClassVar[int]
    BYTES_FIELD_NUMBER: _ClassVar[int]
    VIEWS_FIELD_NUMBER: _ClassVar[int]
    DECODE_BYTES_FIELD_NUMBER: _ClassVar[int]
    DECODE_SECONDS_FIELD_NUMBER: _ClassVar[int]
    file: str
    multiply_adds: float
    bytes: float
    views: _containers.RepeatedCompositeFieldContainer[View]
    decode_bytes: float
    decode_seconds: float
    def __init__(self, file: _Optional[str] = ..., multiply_adds: _Optional[float] = ..., bytes: _Optional[float] = ..., views: _Optional[_Iterable[_Union[View, _Mapping]]] = ..., decode_bytes: _Optional[float] = ..., decode_seconds: _Optional[float] = ...) -> None: ...

class View(_message.Message):
    __slots__ = ("image", "cells", "tiles", "tile", "halo", "phases", "flip", "multiply_adds", "strip_rows")
    IMAGE_FIELD_NUMBER: _ClassVar[int]
    CELLS_FIELD_NUMBER: _ClassVar[int]
    TILES_FIELD_NUMBER: _ClassVar[int]
    TILE_FIELD_NUMBER: _ClassVar[int]
    HALO_FIELD_NUMBER: _ClassVar[int]
    PHASES_FIELD_NUMBER: _ClassVar[int]
    FLIP_FIELD_NUMBER: _ClassVar[int]
    MULTIPLY_ADDS_FIELD_NUMBER: _ClassVar[int]
    STRIP_ROWS_FIELD_NUMBER: _ClassVar[int]
    image: _model_pb2.Size
    cells: _model_pb2.Size
    tiles: int
    tile: _model_pb2.Size
    halo: _containers.RepeatedScalarFieldContainer[int]
    phases: int
    flip: bool
    multiply_adds: float
    strip_rows: int
    def __init__(self, image: _Optional[_Union[_model_pb2.Size, _Mapping]] = ..., cells: _Optional[_Union[_model_pb2.Size, _Mapping]] = ..., tiles: _Optional[int] = ..., tile: _Optional[_Union[_model_pb2.Size, _Mapping]] = ..., halo: _Optional[_Iterable[int]] = ..., phases: _Optional[int] = ..., flip: _Optional[bool] = ..., multiply_adds: _Optional[float] = ..., strip_rows: _Optional[int] = ...) -> None: ...

class ImageInfo(_message.Message):
    __slots__ = ("name", "width", "height", "microns_per_pixel_x", "microns_per_pixel_y")
    NAME_FIELD_NUMBER: _ClassVar[int]
    WIDTH_FIELD_NUMBER: _ClassVar[int]
    HEIGHT_FIELD_NUMBER: _ClassVar[int]
    MICRONS_PER_PIXEL_X_FIELD_NUMBER: _ClassVar[int]
    MICRONS_PER_PIXEL_Y_FIELD_NUMBER: _ClassVar[int]
    name: str
    width: int
    height: int
    microns_per_pixel_x: float
    microns_per_pixel_y: float
    def __init__(self, name: _Optional[str] = ..., width: _Optional[int] = ..., height: _Optional[int] = ..., microns_per_pixel_x: _Optional[float] = ..., microns_per_pixel_y: _Optional[float] = ...) -> None: ...

class GridInfo(_message.Message):
    __slots__ = ("rows", "cols", "stride", "window", "origin_x", "origin_y", "left_out", "last_x", "last_y", "scaled", "holds", "depth", "further")
    ROWS_FIELD_NUMBER: _ClassVar[int]
    COLS_FIELD_NUMBER: _ClassVar[int]
    STRIDE_FIELD_NUMBER: _ClassVar[int]
    WINDOW_FIELD_NUMBER: _ClassVar[int]
    ORIGIN_X_FIELD_NUMBER: _ClassVar[int]
    ORIGIN_Y_FIELD_NUMBER: _ClassVar[int]
    LEFT_OUT_FIELD_NUMBER: _ClassVar[int]
    LAST_X_FIELD_NUMBER: _ClassVar[int]
    LAST_Y_FIELD_NUMBER: _ClassVar[int]
    SCALED_FIELD_NUMBER: _ClassVar[int]
    HOLDS_FIELD_NUMBER: _ClassVar[int]
    DEPTH_FIELD_NUMBER: _ClassVar[int]
    FURTHER_FIELD_NUMBER: _ClassVar[int]
    rows: int
    cols: int
    stride: _model_pb2.Size
    window: _model_pb2.Size
    origin_x: int
    origin_y: int
    left_out: _model_pb2.Size
    last_x: int
    last_y: int
    scaled: _model_pb2.Size
    holds: GridAs
    depth: int
    further: _containers.RepeatedCompositeFieldContainer[_model_pb2.FurtherOutput]
    def __init__(self, rows: _Optional[int] = ..., cols: _Optional[int] = ..., stride: _Optional[_Union[_model_pb2.Size, _Mapping]] = ..., window: _Optional[_Union[_model_pb2.Size, _Mapping]] = ..., origin_x: _Optional[int] = ..., origin_y: _Optional[int] = ..., left_out: _Optional[_Union[_model_pb2.Size, _Mapping]] = ..., last_x: _Optional[int] = ..., last_y: _Optional[int] = ..., scaled: _Optional[_Union[_model_pb2.Size, _Mapping]] = ..., holds: _Optional[_Union[GridAs, str]] = ..., depth: _Optional[int] = ..., further: _Optional[_Iterable[_Union[_model_pb2.FurtherOutput, _Mapping]]] = ...) -> None: ...

class Class(_message.Message):
    __slots__ = ("index", "label")
    INDEX_FIELD_NUMBER: _ClassVar[int]
    LABEL_FIELD_NUMBER: _ClassVar[int]
    index: int
    label: str
    def __init__(self, index: _Optional[int] = ..., label: _Optional[str] = ...) -> None: ...

class Average(_message.Message):
    __slots__ = ("of", "values", "top")
    OF_FIELD_NUMBER: _ClassVar[int]
    VALUES_FIELD_NUMBER: _ClassVar[int]
    TOP_FIELD_NUMBER: _ClassVar[int]
    of: AverageOf
    values: _containers.RepeatedScalarFieldContainer[float]
    top: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, of: _Optional[_Union[AverageOf, str]] = ..., values: _Optional[_Iterable[float]] = ..., top: _Optional[_Iterable[int]] = ...) -> None: ...

class ParityInfo(_message.Message):
    __slots__ = ("exact", "max_abs_diff", "windows", "top_class_agreement", "agreement_low", "agreement_high", "computed")
    EXACT_FIELD_NUMBER: _ClassVar[int]
    MAX_ABS_DIFF_FIELD_NUMBER: _ClassVar[int]
    WINDOWS_FIELD_NUMBER: _ClassVar[int]
    TOP_CLASS_AGREEMENT_FIELD_NUMBER: _ClassVar[int]
    AGREEMENT_LOW_FIELD_NUMBER: _ClassVar[int]
    AGREEMENT_HIGH_FIELD_NUMBER: _ClassVar[int]
    COMPUTED_FIELD_NUMBER: _ClassVar[int]
    exact: bool
    max_abs_diff: float
    windows: int
    top_class_agreement: float
    agreement_low: float
    agreement_high: float
    computed: _model_pb2.Difference
    def __init__(self, exact: _Optional[bool] = ..., max_abs_diff: _Optional[float] = ..., windows: _Optional[int] = ..., top_class_agreement: _Optional[float] = ..., agreement_low: _Optional[float] = ..., agreement_high: _Optional[float] = ..., computed: _Optional[_Union[_model_pb2.Difference, _Mapping]] = ...) -> None: ...

class Timing(_message.Message):
    __slots__ = ("decode_ms", "queue_ms", "compute_ms", "total_ms", "reduce_ms")
    DECODE_MS_FIELD_NUMBER: _ClassVar[int]
    QUEUE_MS_FIELD_NUMBER: _ClassVar[int]
    COMPUTE_MS_FIELD_NUMBER: _ClassVar[int]
    TOTAL_MS_FIELD_NUMBER: _ClassVar[int]
    REDUCE_MS_FIELD_NUMBER: _ClassVar[int]
    decode_ms: float
    queue_ms: float
    compute_ms: float
    total_ms: float
    reduce_ms: float
    def __init__(self, decode_ms: _Optional[float] = ..., queue_ms: _Optional[float] = ..., compute_ms: _Optional[float] = ..., total_ms: _Optional[float] = ..., reduce_ms: _Optional[float] = ...) -> None: ...

class ScoreLargeRequest(_message.Message):
    __slots__ = ("start", "data")
    START_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    start: LargeImage
    data: bytes
    def __init__(self, start: _Optional[_Union[LargeImage, _Mapping]] = ..., data: _Optional[bytes] = ...) -> None: ...

class LargeImage(_message.Message):
    __slots__ = ("model", "version", "name", "options", "raw", "path")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    OPTIONS_FIELD_NUMBER: _ClassVar[int]
    RAW_FIELD_NUMBER: _ClassVar[int]
    PATH_FIELD_NUMBER: _ClassVar[int]
    model: str
    version: str
    name: str
    options: ScoreOptions
    raw: RawImage
    path: str
    def __init__(self, model: _Optional[str] = ..., version: _Optional[str] = ..., name: _Optional[str] = ..., options: _Optional[_Union[ScoreOptions, _Mapping]] = ..., raw: _Optional[_Union[RawImage, _Mapping]] = ..., path: _Optional[str] = ...) -> None: ...

class ScoreLargeResponse(_message.Message):
    __slots__ = ("start", "progress", "rows", "summary")
    START_FIELD_NUMBER: _ClassVar[int]
    PROGRESS_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    SUMMARY_FIELD_NUMBER: _ClassVar[int]
    start: ScoreResponse
    progress: Progress
    rows: GridRows
    summary: ScoreResponse
    def __init__(self, start: _Optional[_Union[ScoreResponse, _Mapping]] = ..., progress: _Optional[_Union[Progress, _Mapping]] = ..., rows: _Optional[_Union[GridRows, _Mapping]] = ..., summary: _Optional[_Union[ScoreResponse, _Mapping]] = ...) -> None: ...

class Progress(_message.Message):
    __slots__ = ("tiles", "of")
    TILES_FIELD_NUMBER: _ClassVar[int]
    OF_FIELD_NUMBER: _ClassVar[int]
    tiles: int
    of: int
    def __init__(self, tiles: _Optional[int] = ..., of: _Optional[int] = ...) -> None: ...

class GridRows(_message.Message):
    __slots__ = ("first", "count", "scores", "positions", "further")
    FIRST_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    SCORES_FIELD_NUMBER: _ClassVar[int]
    POSITIONS_FIELD_NUMBER: _ClassVar[int]
    FURTHER_FIELD_NUMBER: _ClassVar[int]
    first: int
    count: int
    scores: bytes
    positions: bytes
    further: bytes
    def __init__(self, first: _Optional[int] = ..., count: _Optional[int] = ..., scores: _Optional[bytes] = ..., positions: _Optional[bytes] = ..., further: _Optional[bytes] = ...) -> None: ...

class ScoreManyRequest(_message.Message):
    __slots__ = ("id", "request")
    ID_FIELD_NUMBER: _ClassVar[int]
    REQUEST_FIELD_NUMBER: _ClassVar[int]
    id: str
    request: ScoreRequest
    def __init__(self, id: _Optional[str] = ..., request: _Optional[_Union[ScoreRequest, _Mapping]] = ...) -> None: ...

class ScoreManyResponse(_message.Message):
    __slots__ = ("id", "response", "failure")
    ID_FIELD_NUMBER: _ClassVar[int]
    RESPONSE_FIELD_NUMBER: _ClassVar[int]
    FAILURE_FIELD_NUMBER: _ClassVar[int]
    id: str
    response: ScoreResponse
    failure: Failure
    def __init__(self, id: _Optional[str] = ..., response: _Optional[_Union[ScoreResponse, _Mapping]] = ..., failure: _Optional[_Union[Failure, _Mapping]] = ...) -> None: ...

class Failure(_message.Message):
    __slots__ = ("code", "message", "reason")
    CODE_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    code: int
    message: str
    reason: str
    def __init__(self, code: _Optional[int] = ..., message: _Optional[str] = ..., reason: _Optional[str] = ...) -> None: ...

class ListModelsRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListModelsResponse(_message.Message):
    __slots__ = ("models",)
    MODELS_FIELD_NUMBER: _ClassVar[int]
    models: _containers.RepeatedCompositeFieldContainer[ModelVersion]
    def __init__(self, models: _Optional[_Iterable[_Union[ModelVersion, _Mapping]]] = ...) -> None: ...

class ModelVersion(_message.Message):
    __slots__ = ("name", "version", "error")
    NAME_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    name: str
    version: str
    error: str
    def __init__(self, name: _Optional[str] = ..., version: _Optional[str] = ..., error: _Optional[str] = ...) -> None: ...

class GetModelRequest(_message.Message):
    __slots__ = ("model", "version")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    model: str
    version: str
    def __init__(self, model: _Optional[str] = ..., version: _Optional[str] = ...) -> None: ...

class GetModelResponse(_message.Message):
    __slots__ = ("spec", "version", "labels", "limits")
    SPEC_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    LIMITS_FIELD_NUMBER: _ClassVar[int]
    spec: _model_pb2.ModelSpec
    version: str
    labels: _containers.RepeatedScalarFieldContainer[str]
    limits: Limits
    def __init__(self, spec: _Optional[_Union[_model_pb2.ModelSpec, _Mapping]] = ..., version: _Optional[str] = ..., labels: _Optional[_Iterable[str]] = ..., limits: _Optional[_Union[Limits, _Mapping]] = ...) -> None: ...

class Limits(_message.Message):
    __slots__ = ("image_pixels", "message_bytes", "large_image_pixels")
    IMAGE_PIXELS_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_BYTES_FIELD_NUMBER: _ClassVar[int]
    LARGE_IMAGE_PIXELS_FIELD_NUMBER: _ClassVar[int]
    image_pixels: int
    message_bytes: int
    large_image_pixels: int
    def __init__(self, image_pixels: _Optional[int] = ..., message_bytes: _Optional[int] = ..., large_image_pixels: _Optional[int] = ...) -> None: ...
