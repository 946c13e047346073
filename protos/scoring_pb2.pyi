from protos import model_pb2 as _model_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class AverageOf(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    AVERAGE_OF_UNSPECIFIED: _ClassVar[AverageOf]
    AVERAGE_OF_SCORES: _ClassVar[AverageOf]
    AVERAGE_OF_PROBABILITIES: _ClassVar[AverageOf]
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
    __slots__ = ("name", "encoded", "raw")
    NAME_FIELD_NUMBER: _ClassVar[int]
    ENCODED_FIELD_NUMBER: _ClassVar[int]
    RAW_FIELD_NUMBER: _ClassVar[int]
    name: str
    encoded: bytes
    raw: RawImage
    def __init__(self, name: _Optional[str] = ..., encoded: _Optional[bytes] = ..., raw: _Optional[_Union[RawImage, _Mapping]] = ...) -> None: ...

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
    __slots__ = ("average", "top", "classes", "grid")
    AVERAGE_FIELD_NUMBER: _ClassVar[int]
    TOP_FIELD_NUMBER: _ClassVar[int]
    CLASSES_FIELD_NUMBER: _ClassVar[int]
    GRID_FIELD_NUMBER: _ClassVar[int]
    average: AverageOf
    top: int
    classes: _containers.RepeatedScalarFieldContainer[str]
    grid: bool
    def __init__(self, average: _Optional[_Union[AverageOf, str]] = ..., top: _Optional[int] = ..., classes: _Optional[_Iterable[str]] = ..., grid: _Optional[bool] = ...) -> None: ...

class ScoreResponse(_message.Message):
    __slots__ = ("image", "model", "version", "mode", "grid", "classes", "average", "parity", "timing", "scores")
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
    def __init__(self, image: _Optional[_Union[ImageInfo, _Mapping]] = ..., model: _Optional[str] = ..., version: _Optional[str] = ..., mode: _Optional[str] = ..., grid: _Optional[_Union[GridInfo, _Mapping]] = ..., classes: _Optional[_Iterable[_Union[Class, _Mapping]]] = ..., average: _Optional[_Union[Average, _Mapping]] = ..., parity: _Optional[_Union[ParityInfo, _Mapping]] = ..., timing: _Optional[_Union[Timing, _Mapping]] = ..., scores: _Optional[bytes] = ...) -> None: ...

class ImageInfo(_message.Message):
    __slots__ = ("name", "width", "height")
    NAME_FIELD_NUMBER: _ClassVar[int]
    WIDTH_FIELD_NUMBER: _ClassVar[int]
    HEIGHT_FIELD_NUMBER: _ClassVar[int]
    name: str
    width: int
    height: int
    def __init__(self, name: _Optional[str] = ..., width: _Optional[int] = ..., height: _Optional[int] = ...) -> None: ...

class GridInfo(_message.Message):
    __slots__ = ("rows", "cols", "stride", "window", "origin_x", "origin_y", "left_out")
    ROWS_FIELD_NUMBER: _ClassVar[int]
    COLS_FIELD_NUMBER: _ClassVar[int]
    STRIDE_FIELD_NUMBER: _ClassVar[int]
    WINDOW_FIELD_NUMBER: _ClassVar[int]
    ORIGIN_X_FIELD_NUMBER: _ClassVar[int]
    ORIGIN_Y_FIELD_NUMBER: _ClassVar[int]
    LEFT_OUT_FIELD_NUMBER: _ClassVar[int]
    rows: int
    cols: int
    stride: _model_pb2.Size
    window: _model_pb2.Size
    origin_x: int
    origin_y: int
    left_out: _model_pb2.Size
    def __init__(self, rows: _Optional[int] = ..., cols: _Optional[int] = ..., stride: _Optional[_Union[_model_pb2.Size, _Mapping]] = ..., window: _Optional[_Union[_model_pb2.Size, _Mapping]] = ..., origin_x: _Optional[int] = ..., origin_y: _Optional[int] = ..., left_out: _Optional[_Union[_model_pb2.Size, _Mapping]] = ...) -> None: ...

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
    __slots__ = ("exact", "max_abs_diff")
    EXACT_FIELD_NUMBER: _ClassVar[int]
    MAX_ABS_DIFF_FIELD_NUMBER: _ClassVar[int]
    exact: bool
    max_abs_diff: float
    def __init__(self, exact: _Optional[bool] = ..., max_abs_diff: _Optional[float] = ...) -> None: ...

class Timing(_message.Message):
    __slots__ = ("decode_ms", "queue_ms", "compute_ms", "total_ms")
    DECODE_MS_FIELD_NUMBER: _ClassVar[int]
    QUEUE_MS_FIELD_NUMBER: _ClassVar[int]
    COMPUTE_MS_FIELD_NUMBER: _ClassVar[int]
    TOTAL_MS_FIELD_NUMBER: _ClassVar[int]
    decode_ms: float
    queue_ms: float
    compute_ms: float
    total_ms: float
    def __init__(self, decode_ms: _Optional[float] = ..., queue_ms: _Optional[float] = ..., compute_ms: _Optional[float] = ..., total_ms: _Optional[float] = ...) -> None: ...

class ListModelsRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListModelsResponse(_message.Message):
    __slots__ = ("models",)
    MODELS_FIELD_NUMBER: _ClassVar[int]
    models: _containers.RepeatedCompositeFieldContainer[ModelVersion]
    def __init__(self, models: _Optional[_Iterable[_Union[ModelVersion, _Mapping]]] = ...) -> None: ...

class ModelVersion(_message.Message):
    __slots__ = ("name", "version")
    NAME_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    name: str
    version: str
    def __init__(self, name: _Optional[str] = ..., version: _Optional[str] = ...) -> None: ...

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
    __slots__ = ("image_pixels", "message_bytes")
    IMAGE_PIXELS_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_BYTES_FIELD_NUMBER: _ClassVar[int]
    image_pixels: int
    message_bytes: int
    def __init__(self, image_pixels: _Optional[int] = ..., message_bytes: _Optional[int] = ...) -> None: ...
