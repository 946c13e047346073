from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ModelSpec(_message.Message):
    __slots__ = ("spec_version", "name", "window", "vertical", "horizontal", "input", "output", "modes", "strides", "cost", "parity", "labels_sha256", "weights_sha256", "source", "precision", "shared", "microns_per_pixel", "colours", "card")
    SPEC_VERSION_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    WINDOW_FIELD_NUMBER: _ClassVar[int]
    VERTICAL_FIELD_NUMBER: _ClassVar[int]
    HORIZONTAL_FIELD_NUMBER: _ClassVar[int]
    INPUT_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_FIELD_NUMBER: _ClassVar[int]
    MODES_FIELD_NUMBER: _ClassVar[int]
    STRIDES_FIELD_NUMBER: _ClassVar[int]
    COST_FIELD_NUMBER: _ClassVar[int]
    PARITY_FIELD_NUMBER: _ClassVar[int]
    LABELS_SHA256_FIELD_NUMBER: _ClassVar[int]
    WEIGHTS_SHA256_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    PRECISION_FIELD_NUMBER: _ClassVar[int]
    SHARED_FIELD_NUMBER: _ClassVar[int]
    MICRONS_PER_PIXEL_FIELD_NUMBER: _ClassVar[int]
    COLOURS_FIELD_NUMBER: _ClassVar[int]
    CARD_FIELD_NUMBER: _ClassVar[int]
    spec_version: int
    name: str
    window: Size
    vertical: AxisGeometry
    horizontal: AxisGeometry
    input: Input
    output: Output
    modes: _containers.RepeatedScalarFieldContainer[str]
    strides: _containers.RepeatedCompositeFieldContainer[StrideFile]
    cost: _containers.RepeatedCompositeFieldContainer[Cost]
    parity: _containers.RepeatedCompositeFieldContainer[Parity]
    labels_sha256: str
    weights_sha256: str
    source: Source
    precision: str
    shared: _containers.RepeatedCompositeFieldContainer[SharedFile]
    microns_per_pixel: float
    colours: _containers.RepeatedScalarFieldContainer[str]
    card: str
    def __init__(self, spec_version: _Optional[int] = ..., name: _Optional[str] = ..., window: _Optional[_Union[Size, _Mapping]] = ..., vertical: _Optional[_Union[AxisGeometry, _Mapping]] = ..., horizontal: _Optional[_Union[AxisGeometry, _Mapping]] = ..., input: _Optional[_Union[Input, _Mapping]] = ..., output: _Optional[_Union[Output, _Mapping]] = ..., modes: _Optional[_Iterable[str]] = ..., strides: _Optional[_Iterable[_Union[StrideFile, _Mapping]]] = ..., cost: _Optional[_Iterable[_Union[Cost, _Mapping]]] = ..., parity: _Optional[_Iterable[_Union[Parity, _Mapping]]] = ..., labels_sha256: _Optional[str] = ..., weights_sha256: _Optional[str] = ..., source: _Optional[_Union[Source, _Mapping]] = ..., precision: _Optional[str] = ..., shared: _Optional[_Iterable[_Union[SharedFile, _Mapping]]] = ..., microns_per_pixel: _Optional[float] = ..., colours: _Optional[_Iterable[str]] = ..., card: _Optional[str] = ...) -> None: ...

class Size(_message.Message):
    __slots__ = ("height", "width")
    HEIGHT_FIELD_NUMBER: _ClassVar[int]
    WIDTH_FIELD_NUMBER: _ClassVar[int]
    height: int
    width: int
    def __init__(self, height: _Optional[int] = ..., width: _Optional[int] = ...) -> None: ...

class AxisGeometry(_message.Message):
    __slots__ = ("stride", "receptive_field", "padding_before", "padding_after")
    STRIDE_FIELD_NUMBER: _ClassVar[int]
    RECEPTIVE_FIELD_FIELD_NUMBER: _ClassVar[int]
    PADDING_BEFORE_FIELD_NUMBER: _ClassVar[int]
    PADDING_AFTER_FIELD_NUMBER: _ClassVar[int]
    stride: int
    receptive_field: int
    padding_before: int
    padding_after: int
    def __init__(self, stride: _Optional[int] = ..., receptive_field: _Optional[int] = ..., padding_before: _Optional[int] = ..., padding_after: _Optional[int] = ...) -> None: ...

class Input(_message.Message):
    __slots__ = ("name", "dtype", "layout", "channels", "order", "preprocessing")
    NAME_FIELD_NUMBER: _ClassVar[int]
    DTYPE_FIELD_NUMBER: _ClassVar[int]
    LAYOUT_FIELD_NUMBER: _ClassVar[int]
    CHANNELS_FIELD_NUMBER: _ClassVar[int]
    ORDER_FIELD_NUMBER: _ClassVar[int]
    PREPROCESSING_FIELD_NUMBER: _ClassVar[int]
    name: str
    dtype: str
    layout: str
    channels: int
    order: str
    preprocessing: Preprocessing
    def __init__(self, name: _Optional[str] = ..., dtype: _Optional[str] = ..., layout: _Optional[str] = ..., channels: _Optional[int] = ..., order: _Optional[str] = ..., preprocessing: _Optional[_Union[Preprocessing, _Mapping]] = ...) -> None: ...

class Preprocessing(_message.Message):
    __slots__ = ("scale", "mean", "std", "order", "dtype")
    SCALE_FIELD_NUMBER: _ClassVar[int]
    MEAN_FIELD_NUMBER: _ClassVar[int]
    STD_FIELD_NUMBER: _ClassVar[int]
    ORDER_FIELD_NUMBER: _ClassVar[int]
    DTYPE_FIELD_NUMBER: _ClassVar[int]
    scale: float
    mean: _containers.RepeatedScalarFieldContainer[float]
    std: _containers.RepeatedScalarFieldContainer[float]
    order: str
    dtype: str
    def __init__(self, scale: _Optional[float] = ..., mean: _Optional[_Iterable[float]] = ..., std: _Optional[_Iterable[float]] = ..., order: _Optional[str] = ..., dtype: _Optional[str] = ...) -> None: ...

class Output(_message.Message):
    __slots__ = ("name", "kind", "classes", "further")
    NAME_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    CLASSES_FIELD_NUMBER: _ClassVar[int]
    FURTHER_FIELD_NUMBER: _ClassVar[int]
    name: str
    kind: str
    classes: int
    further: _containers.RepeatedCompositeFieldContainer[FurtherOutput]
    def __init__(self, name: _Optional[str] = ..., kind: _Optional[str] = ..., classes: _Optional[int] = ..., further: _Optional[_Iterable[_Union[FurtherOutput, _Mapping]]] = ...) -> None: ...

class FurtherOutput(_message.Message):
    __slots__ = ("name", "values")
    NAME_FIELD_NUMBER: _ClassVar[int]
    VALUES_FIELD_NUMBER: _ClassVar[int]
    name: str
    values: int
    def __init__(self, name: _Optional[str] = ..., values: _Optional[int] = ...) -> None: ...

class StrideFile(_message.Message):
    __slots__ = ("stride", "file")
    STRIDE_FIELD_NUMBER: _ClassVar[int]
    FILE_FIELD_NUMBER: _ClassVar[int]
    stride: Size
    file: str
    def __init__(self, stride: _Optional[_Union[Size, _Mapping]] = ..., file: _Optional[str] = ...) -> None: ...

class SharedFile(_message.Message):
    __slots__ = ("multiple_of", "file", "multiply_adds", "activation_bytes", "difference", "moved_bytes", "window_bytes", "margin_limit")
    MULTIPLE_OF_FIELD_NUMBER: _ClassVar[int]
    FILE_FIELD_NUMBER: _ClassVar[int]
    MULTIPLY_ADDS_FIELD_NUMBER: _ClassVar[int]
    ACTIVATION_BYTES_FIELD_NUMBER: _ClassVar[int]
    DIFFERENCE_FIELD_NUMBER: _ClassVar[int]
    MOVED_BYTES_FIELD_NUMBER: _ClassVar[int]
    WINDOW_BYTES_FIELD_NUMBER: _ClassVar[int]
    MARGIN_LIMIT_FIELD_NUMBER: _ClassVar[int]
    multiple_of: Size
    file: str
    multiply_adds: _containers.RepeatedScalarFieldContainer[float]
    activation_bytes: _containers.RepeatedScalarFieldContainer[float]
    difference: Difference
    moved_bytes: _containers.RepeatedScalarFieldContainer[float]
    window_bytes: float
    margin_limit: int
    def __init__(self, multiple_of: _Optional[_Union[Size, _Mapping]] = ..., file: _Optional[str] = ..., multiply_adds: _Optional[_Iterable[float]] = ..., activation_bytes: _Optional[_Iterable[float]] = ..., difference: _Optional[_Union[Difference, _Mapping]] = ..., moved_bytes: _Optional[_Iterable[float]] = ..., window_bytes: _Optional[float] = ..., margin_limit: _Optional[int] = ...) -> None: ...

class Cost(_message.Message):
    __slots__ = ("stride", "multiply_adds_per_cell", "multiply_adds_per_crop", "activation_bytes_per_pixel", "multiply_adds_per_window", "multiply_adds_per_row", "multiply_adds_per_column")
    STRIDE_FIELD_NUMBER: _ClassVar[int]
    MULTIPLY_ADDS_PER_CELL_FIELD_NUMBER: _ClassVar[int]
    MULTIPLY_ADDS_PER_CROP_FIELD_NUMBER: _ClassVar[int]
    ACTIVATION_BYTES_PER_PIXEL_FIELD_NUMBER: _ClassVar[int]
    MULTIPLY_ADDS_PER_WINDOW_FIELD_NUMBER: _ClassVar[int]
    MULTIPLY_ADDS_PER_ROW_FIELD_NUMBER: _ClassVar[int]
    MULTIPLY_ADDS_PER_COLUMN_FIELD_NUMBER: _ClassVar[int]
    stride: Size
    multiply_adds_per_cell: float
    multiply_adds_per_crop: float
    activation_bytes_per_pixel: float
    multiply_adds_per_window: float
    multiply_adds_per_row: float
    multiply_adds_per_column: float
    def __init__(self, stride: _Optional[_Union[Size, _Mapping]] = ..., multiply_adds_per_cell: _Optional[float] = ..., multiply_adds_per_crop: _Optional[float] = ..., activation_bytes_per_pixel: _Optional[float] = ..., multiply_adds_per_window: _Optional[float] = ..., multiply_adds_per_row: _Optional[float] = ..., multiply_adds_per_column: _Optional[float] = ...) -> None: ...

class Parity(_message.Message):
    __slots__ = ("stride", "native", "interior", "border", "exact", "precision", "images", "small_images", "overall", "of_given_images")
    STRIDE_FIELD_NUMBER: _ClassVar[int]
    NATIVE_FIELD_NUMBER: _ClassVar[int]
    INTERIOR_FIELD_NUMBER: _ClassVar[int]
    BORDER_FIELD_NUMBER: _ClassVar[int]
    EXACT_FIELD_NUMBER: _ClassVar[int]
    PRECISION_FIELD_NUMBER: _ClassVar[int]
    IMAGES_FIELD_NUMBER: _ClassVar[int]
    SMALL_IMAGES_FIELD_NUMBER: _ClassVar[int]
    OVERALL_FIELD_NUMBER: _ClassVar[int]
    OF_GIVEN_IMAGES_FIELD_NUMBER: _ClassVar[int]
    stride: Size
    native: Difference
    interior: Difference
    border: Difference
    exact: bool
    precision: Difference
    images: int
    small_images: int
    overall: Difference
    of_given_images: bool
    def __init__(self, stride: _Optional[_Union[Size, _Mapping]] = ..., native: _Optional[_Union[Difference, _Mapping]] = ..., interior: _Optional[_Union[Difference, _Mapping]] = ..., border: _Optional[_Union[Difference, _Mapping]] = ..., exact: _Optional[bool] = ..., precision: _Optional[_Union[Difference, _Mapping]] = ..., images: _Optional[int] = ..., small_images: _Optional[int] = ..., overall: _Optional[_Union[Difference, _Mapping]] = ..., of_given_images: _Optional[bool] = ...) -> None: ...

class Difference(_message.Message):
    __slots__ = ("windows", "max_abs", "median_abs", "relative_l2", "top_class_agreement", "p99_abs", "agreement_low", "agreement_high", "rarer_windows", "rarer_agreement")
    WINDOWS_FIELD_NUMBER: _ClassVar[int]
    MAX_ABS_FIELD_NUMBER: _ClassVar[int]
    MEDIAN_ABS_FIELD_NUMBER: _ClassVar[int]
    RELATIVE_L2_FIELD_NUMBER: _ClassVar[int]
    TOP_CLASS_AGREEMENT_FIELD_NUMBER: _ClassVar[int]
    P99_ABS_FIELD_NUMBER: _ClassVar[int]
    AGREEMENT_LOW_FIELD_NUMBER: _ClassVar[int]
    AGREEMENT_HIGH_FIELD_NUMBER: _ClassVar[int]
    RARER_WINDOWS_FIELD_NUMBER: _ClassVar[int]
    RARER_AGREEMENT_FIELD_NUMBER: _ClassVar[int]
    windows: int
    max_abs: float
    median_abs: float
    relative_l2: float
    top_class_agreement: float
    p99_abs: float
    agreement_low: float
    agreement_high: float
    rarer_windows: int
    rarer_agreement: float
    def __init__(self, windows: _Optional[int] = ..., max_abs: _Optional[float] = ..., median_abs: _Optional[float] = ..., relative_l2: _Optional[float] = ..., top_class_agreement: _Optional[float] = ..., p99_abs: _Optional[float] = ..., agreement_low: _Optional[float] = ..., agreement_high: _Optional[float] = ..., rarer_windows: _Optional[int] = ..., rarer_agreement: _Optional[float] = ...) -> None: ...

class Source(_message.Message):
    __slots__ = ("format", "sha256", "producer")
    FORMAT_FIELD_NUMBER: _ClassVar[int]
    SHA256_FIELD_NUMBER: _ClassVar[int]
    PRODUCER_FIELD_NUMBER: _ClassVar[int]
    format: str
    sha256: str
    producer: str
    def __init__(self, format: _Optional[str] = ..., sha256: _Optional[str] = ..., producer: _Optional[str] = ...) -> None: ...
