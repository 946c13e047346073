"""The settings of the server, from four sources: flags, environment variables, a YAML file, defaults.

Each source takes precedence over the following ones. The setting `max_waiting`, for example, is the flag
`--max-waiting`, the environment variable `FULLCONV_MAX_WAITING`, and the key `max_waiting` in the file that `--config`
names.
"""

import os
import re
import tempfile
from itertools import combinations
from pathlib import Path
from typing import Any, Self

import yaml
from pydantic import Field, ValidationError, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, SettingsError

from fullconv.common.names import PRECISIONS, PrecisionName, ProviderName, has_precision
from service import machine
from service.engine.batching import Batching
from service.engine.requested_backend import RequestedBackend
from service.limits import MIB, Limits, Tuning
from service.setting_flags import flags
from service.setting_types import Address, Count, Mib, NonemptyPath, Seconds, is_loopback
from service.settings_file import ConfigurationError, SettingsFile, message

PREFIX = "FULLCONV_"
FOREIGN = re.compile(r"FULLCONV_(SERVICE_.*|PORT(_.*)?)")
"""Environment variables that are not settings: of Kubernetes for a service named fullconv, and of the compose file."""
DEFAULTS = Limits()
TILE_SHARE = 1 / 8
"""Share of the memory of the machine or container that the activations of the batch in one slot may need."""


class Settings(BaseSettings):
    """Serve converted models over gRPC: clients send images and get averages and grids of class scores.

    SIGTERM, SIGINT or SIGHUP stops the server after it has answered all admitted requests; a further signal, more than
    a second later, stops it at once. The log goes to standard error, one JSON object per line. `--version`, as the only
    argument, prints the version.
    """

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_parse_none_str="null",
        extra="forbid",
        frozen=True,
        cli_prog_name="fullconv-serve",
        cli_kebab_case=True,
        cli_implicit_flags="toggle",
        cli_hide_none_type=True,
        cli_exit_on_error=False,
    )

    config: NonemptyPath | None = Field(
        None, description="YAML file with settings. Its keys are the names of the flags with _ in place of -."
    )
    print_config: bool = Field(False, description="Print all settings in force as YAML, and exit.")

    models: NonemptyPath = Field(
        description="Directory of the models: DIR/NAME/VERSION/model.onnx, as fullconv-convert writes it."
    )
    poll: float = Field(
        10.0,
        ge=0,
        le=86400,
        description="Seconds between two checks of the directory for new, changed and removed versions. "
        "0: no regular checks.",
    )
    weights_mib: Mib | None = Field(
        None,
        description="Largest total size of the model files in memory, in MiB. The least recently used files are "
        "dropped, and loaded again when they are requested. null: no limit.",
    )
    check_seconds: float = Field(
        60.0,
        ge=1,
        le=86400,
        description="Longest time in seconds for the check of a version, and for loading each of its files afterwards, "
        "which includes the measurements of providers. A version that takes longer is not served.",
    )
    check_mib: Mib | None = Field(
        None,
        description="Largest memory for the check of a version, in addition to the program's own, in MiB. null: half "
        "of the memory of the machine or container.",
    )

    listen: Address = Field("127.0.0.1:8500", description="HOST:PORT of the gRPC server. Port 0: any free port.")
    metrics: Address | None = Field(
        "127.0.0.1:8501",
        description="HOST:PORT of the HTTP server with /metrics for Prometheus and /health for probes. "
        "null: no metrics. If the default port is in use, the server starts without metrics.",
    )
    viewer: Address | None = Field(
        None,
        description="HOST:PORT of an HTTP server with a page that scores images in a browser, and the Open Inference "
        "Protocol as REST. Its encryption and tokens are those of the gRPC server. null: no such server. Requires the "
        "extra 'viewer'.",
    )
    traces: bool = Field(
        False,
        description="Send an OpenTelemetry span for each request to the collector that OTEL_EXPORTER_OTLP_ENDPOINT "
        "names. Requires the extra 'traces'.",
    )
    admin: Address | None = Field(
        None,
        description="Loopback HOST:PORT of a second gRPC server that loads and unloads models. null: no such server.",
    )
    insecure: bool = Field(
        False, description="Allow unencrypted connections from other machines. Anyone on the network can read them."
    )
    tls_cert: NonemptyPath | None = Field(None, description="PEM file with the server's certificate chain.")
    tls_key: NonemptyPath | None = Field(None, description="PEM file with the private key of the certificate.")
    tls_client_ca: NonemptyPath | None = Field(
        None,
        description="PEM file with the certificate authorities of clients. If set, each client needs a certificate "
        "that one of them has signed.",
    )
    tokens: NonemptyPath | None = Field(
        None,
        description="File with a line 'NAME SHA256' for each token. If set, each call except health checks and "
        "reflection needs a token. The file is read again when it changes.",
    )
    max_age: float = Field(
        300.0,
        ge=0,
        le=1e6,
        description="Age in seconds at which the server closes a connection, so that the client connects again and "
        "finds new servers of the same name. 0: never.",
    )

    provider: ProviderName = Field(
        "auto",
        description="Runtime of the networks: ONNX Runtime on the CPU, OpenVINO (extra 'openvino'), or ONNX Runtime on "
        "an NVIDIA GPU with cuda or tensorrt (onnxruntime-gpu). auto: the fastest that is installed, as measured when "
        "a model is first loaded; never tensorrt.",
    )
    precision: PrecisionName = Field(
        "auto",
        description="Number format of computation. bf16 requires OpenVINO on a processor with bfloat16 instructions, "
        "or tensorrt; fp16 requires tensorrt. auto: the fastest whose scores agree with those of fp32, as measured "
        "when a model is first loaded; mode exact and min_agreement then use fp32 on the CPU.",
    )
    slots: int | None = Field(
        None,
        ge=1,
        le=64,
        description="Number of batches that run concurrently. With N >= 2, at most N - 1 of them belong to ScoreLarge, "
        "and at most N - 1 to other requests. null: one belongs to ScoreLarge; as many to other requests as the model "
        "computes fastest, as measured when it is first loaded.",
    )
    threads: int = Field(
        0,
        ge=0,
        le=1024,
        description="Number of threads that compute the network's operators. 0: one for each CPU that this process "
        "may use; if its cores have several CPUs, one for each CPU or for each core, whichever is faster, as measured "
        "at the first start.",
    )
    batch: int | None = Field(
        None,
        ge=1,
        le=1024,
        description="Largest number of tiles of the same shape in one batch. null: as many as the model computes "
        "fastest, as measured when it is first loaded.",
    )
    batch_delay_ms: float = Field(
        0.0,
        ge=0,
        le=10_000,
        description="Longest time in milliseconds that a tile waits, while a slot is free, for tiles that can join its "
        "batch.",
    )
    tile_ms: float = Field(
        500.0,
        ge=1,
        le=1e6,
        description="Largest predicted duration of a batch, in milliseconds. Tiles are made smaller to keep it, unless "
        "more than half of a tile would be halo.",
    )
    tile_mib: Mib | None = Field(
        None,
        description="Largest memory for the activations of one batch, in MiB, in each slot. null: an eighth of the "
        "memory of the machine or container, at most 4096.",
    )

    max_waiting: int = Field(
        DEFAULTS.waiting,
        ge=1,
        le=4096,
        description="Largest number of requests that are admitted and not yet answered.",
    )
    max_waiting_mib: Mib | None = Field(
        None,
        description="Largest total size of the messages of all admitted requests, in MiB. null: a quarter of the "
        f"memory of the machine or container, at most {DEFAULTS.waiting_bytes // MIB}.",
    )
    max_waiting_seconds: Seconds = Field(
        DEFAULTS.waiting_seconds,
        description="Largest total predicted compute of all admitted requests without ScoreLarge, in seconds.",
    )
    max_held_mib: Mib | None = Field(
        None,
        description="Largest total memory for pixels and scores of all admitted requests, as planned, in MiB. null: a "
        "quarter of the memory of the machine or container.",
    )
    client_share: float = Field(
        DEFAULTS.client_share,
        gt=0,
        le=1,
        description="Share of max-waiting, max-waiting-mib, max-waiting-seconds, max-held-mib, max-streams, max-large "
        "and spool-mib that one client may use, 0 to 1.",
    )
    max_receive: Seconds = Field(
        DEFAULTS.receive_seconds,
        description="Longest time in seconds that one message may take to arrive.",
    )
    max_streams: Count = Field(
        DEFAULTS.streams,
        description="Largest number of open calls of ScoreLarge, ScoreMany and ModelStreamInfer together.",
    )
    max_large: int = Field(
        DEFAULTS.large,
        ge=1,
        le=64,
        description="Number of images of ScoreLarge that are scored concurrently. Further images wait.",
    )
    max_idle: float = Field(
        DEFAULTS.idle_seconds,
        ge=0.1,
        le=1e6,
        description="Longest time in seconds that a client of ScoreLarge may take to send the next part, and that a "
        "client of any stream may take to receive an answer.",
    )
    max_upload: Seconds = Field(
        DEFAULTS.upload_seconds,
        description="Longest total time in seconds that the server waits for the parts of an image of ScoreLarge.",
    )
    min_upload_kib: float = Field(
        DEFAULTS.upload_rate / 1024,
        ge=0,
        le=1e6,
        description="Least rate in KiB per second at which the parts of an image of ScoreLarge must arrive, after "
        "max-idle seconds of waiting for them. 0: any rate.",
    )
    max_plan_mib: Mib = Field(
        DEFAULTS.plan_bytes // MIB,
        description="Largest memory for one image, as planned, in MiB. Larger plans are refused.",
    )
    max_megapixels: float = Field(
        DEFAULTS.image_pixels / 1e6,
        ge=0.001,
        le=4294,
        description="Largest size in megapixels of an image that is sent in one message, and of a file that can only "
        "be decoded as a whole, such as JPEG.",
    )
    max_message_mib: int = Field(
        DEFAULTS.message_bytes // MIB,
        ge=1,
        le=2047,
        description="Largest size of one message in either direction, in MiB.",
    )
    images: NonemptyPath | None = Field(
        None, description="Directory whose image files requests may name by path. null: requests may not name files."
    )
    spool: NonemptyPath = Field(
        Path(tempfile.gettempdir()),
        description="Directory for encoded files of ScoreLarge while they are received and scored.",
    )
    spool_mib: Mib = Field(
        DEFAULTS.spool_bytes // MIB, description="Largest total size of the files in the directory spool, in MiB."
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003 (pydantic-settings names them)
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Return the sources after the flags, which pydantic-settings reads first; the YAML file is the last one."""
        return init_settings, env_settings, SettingsFile(settings_cls)

    @model_validator(mode="before")
    @classmethod
    def _refuse_booleans(cls, values: dict[str, Any]) -> dict[str, Any]:
        """Raise ValueError for true and false (in YAML also yes and no) where pydantic would read them as 1 and 0."""
        for name, value in values.items():
            if isinstance(value, bool) and name in cls.model_fields and cls.model_fields[name].annotation is not bool:
                raise ValueError(f"{name}: expected a value, got {str(value).lower()}")
        return values

    @model_validator(mode="after")
    def _check_combinations(self) -> Self:
        """Raise ValueError for settings that contradict each other."""
        if (self.tls_cert is None) != (self.tls_key is None):
            raise ValueError("tls_cert, tls_key: expected both or neither, got one")
        if self.tls_client_ca is not None and self.tls_cert is None:
            raise ValueError("tls_client_ca: expected tls_cert and tls_key too, got neither")
        for name, address in (("listen", self.listen), ("viewer", self.viewer)):
            if address and not self.insecure and self.tls_cert is None and not is_loopback(address):
                raise ValueError(
                    f"{name}: expected a loopback address, or --tls-cert and --tls-key, or --insecure; "
                    f"got {address} without them"
                )
        addresses = {"listen": self.listen, "viewer": self.viewer, "admin": self.admin}
        if "metrics" in self.model_fields_set:  # without metrics if the default address is in use
            addresses["metrics"] = self.metrics
        for one, other in combinations([name for name, address in addresses.items() if address], 2):
            if addresses[one] == addresses[other] and not str(addresses[one]).endswith(":0"):
                raise ValueError(f"{one}, {other}: expected different addresses, got {addresses[one]} twice")
        if not has_precision(self.provider, self.precision):
            expected = " or ".join(PRECISIONS[self.provider])
            raise ValueError(f"precision: expected {expected} with provider {self.provider}, got {self.precision}")
        if self.admin is not None and not is_loopback(self.admin):
            raise ValueError(f"admin: expected a loopback address, got {self.admin}")
        return self

    @property
    def limits(self) -> Limits:
        """The limits that a request must not exceed."""
        quarter = machine.memory_bytes() // 4
        waiting = min(quarter, DEFAULTS.waiting_bytes) if self.max_waiting_mib is None else self.max_waiting_mib * MIB
        held = quarter if self.max_held_mib is None else self.max_held_mib * MIB
        return Limits(
            image_pixels=int(self.max_megapixels * 1e6),
            message_bytes=self.max_message_mib * MIB,
            receive_seconds=self.max_receive,
            idle_seconds=self.max_idle,
            upload_seconds=self.max_upload,
            upload_rate=self.min_upload_kib * 1024,
            waiting=self.max_waiting,
            waiting_bytes=waiting,
            waiting_seconds=self.max_waiting_seconds,
            held_bytes=held,
            client_share=self.client_share,
            streams=self.max_streams,
            large=self.max_large,
            spool_bytes=self.spool_mib * MIB,
            plan_bytes=self.max_plan_mib * MIB,
        )

    @property
    def backend(self) -> RequestedBackend:
        """The provider and the precision that run the networks."""
        return RequestedBackend(self.provider, self.precision)

    @property
    def tuning(self) -> Tuning:
        """How images are cut into tiles and strips."""
        tile = Tuning.of_memory(TILE_SHARE).tile_bytes if self.tile_mib is None else self.tile_mib * MIB
        if self.tile_mib is None:  # tiles are not the reason why a plan is refused
            tile = min(tile, self.max_plan_mib * MIB // 2)
        return Tuning(tile_bytes=tile, tile_seconds=self.tile_ms / 1e3)

    @property
    def weights_bytes(self) -> int | None:
        """Largest total size of the model files in memory, in bytes; None: no limit."""
        return None if self.weights_mib is None else self.weights_mib * MIB

    @property
    def check_bytes(self) -> int:
        """Largest memory for the check of a version, in addition to the program's own, in bytes."""
        return machine.memory_bytes() // 2 if self.check_mib is None else self.check_mib * MIB

    @property
    def batching(self) -> Batching:
        """How tiles are combined to batches."""
        return Batching(self.batch, self.batch_delay_ms / 1e3, self.tile_ms / 1e3, self.tuning.tile_bytes)

    def text(self) -> str:
        """Return all settings in force as YAML."""
        values = self.model_dump(mode="json", exclude={"config", "print_config"})
        values |= {
            "max_held_mib": self.limits.held_bytes // MIB,
            "check_mib": self.check_bytes // MIB,
            "tile_mib": self.tuning.tile_bytes // MIB,
            "max_waiting_mib": self.limits.waiting_bytes // MIB,
        }
        return str(yaml.safe_dump(values, sort_keys=False, allow_unicode=True))


def read_settings(arguments: list[str]) -> Settings:
    """Return the settings from the flags in `arguments`, the environment and the file; raises ConfigurationError."""
    known = {f"{PREFIX}{name.upper()}" for name in Settings.model_fields}
    for name in os.environ:
        if name.upper().startswith(PREFIX) and name.upper() not in known and not FOREIGN.fullmatch(name.upper()):
            raise ConfigurationError(
                f"{name}: expected the name of a setting in the environment; --help lists all settings"
            )
    try:
        return Settings(_cli_settings_source=flags(Settings, arguments))  # type: ignore[call-arg]
    except ValidationError as error:
        raise ConfigurationError("; ".join(message(dict(each)) for each in error.errors())) from None
    except SettingsError as error:
        raise ConfigurationError(str(error.__cause__ or error)) from None
