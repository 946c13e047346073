"""What the server is started with: flags, over environment variables, over a YAML file, over defaults.

A setting `max_waiting` is `--max-waiting` as a flag, `FULLCONV_MAX_WAITING` in the environment, and `max_waiting:` in
the file that `--config` names.
"""

import ipaddress
import os
import re
import tempfile
from collections import Counter
from itertools import combinations
from pathlib import Path
from typing import Annotated, Any, Self

import yaml
from pydantic import AfterValidator, BeforeValidator, Field, ValidationError, model_validator
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, SettingsError

from service import machine
from service.engine.scheduler import Batching
from service.engine.session import Provider
from service.limits import MIB, Limits, Tuning

ADDRESS = re.compile(r"(?P<host>\[[0-9a-fA-F:]+\]|[^:\[\]]+):(?P<port>[0-9]{1,5})")
PREFIX = "FULLCONV_"
OTHERS = re.compile(r"FULLCONV_(SERVICE_.*|PORT(_.*)?)")
"""What Kubernetes says of a service of our name, and the compose file of its port."""
DEFAULTS, TUNING, BATCHING = Limits(), Tuning(), Batching()


class ConfigurationError(Exception):
    """A setting cannot be used; the message names it, what was expected, and what was got."""


def _address(value: str) -> str:
    match = ADDRESS.fullmatch(value)
    if not match or int(match["port"]) > 65535:
        raise ValueError("expected HOST:PORT or [IPV6]:PORT")
    return value


def _place(value: object) -> object:
    """Refuse what pathlib would take for this directory: a variable that is there and empty."""
    if not isinstance(value, (str, Path)) or not str(value):
        raise ValueError("expected a path")
    return value


Address = Annotated[str, AfterValidator(_address)]
Place = Annotated[Path, BeforeValidator(_place)]
Count = Annotated[int, Field(ge=1)]
Mib = Annotated[int, Field(ge=1, le=1 << 30)]
Seconds = Annotated[float, Field(gt=0, le=1e6)]


def is_loopback(address: str) -> bool:
    """Whether HOST:PORT is reached from this machine alone."""
    host = address.rpartition(":")[0].strip("[]")
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class Settings(BaseSettings):
    """Serve converted models over gRPC: images in, grids of class scores and averages out.

    SIGTERM answers what was admitted and ends; another one, a second later, ends at once. The log goes to standard
    error, one JSON object a line. --version alone prints the version.
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

    config: Place | None = Field(None, description="A YAML file of these settings, with _ for -.")
    print_config: bool = Field(False, description="Print every setting as it is in force, as YAML, and end.")

    models: Place = Field(description="The model repository: DIR/NAME/VERSION/model.onnx.")
    poll: float = Field(10.0, ge=0, le=86400, description="Seconds between looks at the repository; 0: never again.")
    weights_mib: Mib | None = Field(
        None, description="Weights in memory together, as on disk: the idlest models are forgotten; null keeps all."
    )

    listen: Address = Field("127.0.0.1:8500", description="HOST:PORT to serve on; port 0 takes a free one.")
    metrics: Address | None = Field(
        "127.0.0.1:8501",
        description="HOST:PORT of Prometheus metrics and of /health, over HTTP; none if this default is taken.",
    )
    traces: bool = Field(
        False, description="Send OpenTelemetry traces where OTEL_EXPORTER_OTLP_ENDPOINT says; needs the extra 'traces'."
    )
    admin: Address | None = Field(None, description="HOST:PORT of this machine where models are loaded and unloaded.")
    insecure: bool = Field(False, description="Listen beyond this machine in the clear, where others can read along.")
    tls_cert: Place | None = Field(None, description="The server's certificate and those that sign it, PEM.")
    tls_key: Place | None = Field(None, description="Its private key, PEM.")
    tls_client_ca: Place | None = Field(None, description="Certificates that sign those of clients, PEM; asks for one.")
    tokens: Place | None = Field(None, description="Lines NAME SHA256 of tokens; a call needs one. Read if changed.")
    max_age: float = Field(
        300.0,
        ge=0,
        le=1e6,
        description="Seconds after which a connection is renewed, so that clients see "
        "new servers behind the same name; 0: never.",
    )

    provider: Provider = Field("cpu", description="Where networks run; cuda needs onnxruntime-gpu.")
    slots: int = Field(
        2, ge=1, le=64, description="Batches that run at once: one less of small images at the most, and of large ones."
    )
    threads: int = Field(
        0, ge=0, le=1024, description="Threads of the network's operators; 0: as many as there are CPUs to use."
    )
    batch: int = Field(BATCHING.max_tiles, ge=1, le=1024, description="Tiles of one shape that run together.")
    batch_delay_ms: float = Field(0.0, ge=0, le=10_000, description="That a tile waits for others like it.")
    tile_ms: float = Field(500.0, ge=1, le=1e6, description="A tile's run, unless more than half of it would be halo.")
    tile_mib: Mib = Field(TUNING.tile_bytes // MIB, description="Activations of a batch, in each slot.")

    max_waiting: int = Field(DEFAULTS.waiting, ge=1, le=4096, description="Requests admitted and not answered.")
    max_waiting_mib: Mib = Field(DEFAULTS.waiting_bytes // MIB, description="The messages of those together.")
    max_waiting_seconds: Seconds = Field(DEFAULTS.waiting_seconds, description="Their compute together, as predicted.")
    max_held_mib: Mib | None = Field(
        None, description="Their pixels and scores together; null is a quarter of the memory."
    )
    client_share: float = Field(DEFAULTS.client_share, gt=0, le=1, description="Of each of these for one client.")
    max_streams: Count = Field(
        DEFAULTS.streams, description="Calls of ScoreLarge, ScoreMany and ModelStreamInfer at once, of all clients."
    )
    max_large: int = Field(DEFAULTS.large, ge=1, le=64, description="Images of ScoreLarge scored at once; others wait.")
    max_idle: float = Field(
        DEFAULTS.idle_seconds,
        ge=0.1,
        le=1e6,
        description="Seconds that a client of ScoreLarge may not send, and one of any stream not take what is sent.",
    )
    max_plan_mib: Mib = Field(DEFAULTS.plan_bytes // MIB, description="Memory of one image, as planned.")
    max_megapixels: float = Field(DEFAULTS.image_pixels / 1e6, ge=0.001, le=4294, description="Pixels of one image.")
    max_message_mib: int = Field(DEFAULTS.message_bytes // MIB, ge=1, le=2047, description="One message, either way.")
    images: Place | None = Field(None, description="A directory whose files requests may name by their paths.")
    spool: Place = Field(Path(tempfile.gettempdir()), description="Where large files lie while they are scored.")
    spool_mib: Mib = Field(DEFAULTS.spool_bytes // MIB, description="Those files together.")

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003 (pydantic-settings names them)
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Flags come first, by pydantic-settings itself; the file, which a flag or a variable names, last."""
        return init_settings, env_settings, _File(settings_cls)

    @model_validator(mode="before")
    @classmethod
    def _no_truths_for_numbers(cls, values: dict[str, Any]) -> dict[str, Any]:
        """Refuse YAML's yes and no, which pydantic takes for 1 and 0."""
        for name, value in values.items():
            if isinstance(value, bool) and name in cls.model_fields and cls.model_fields[name].annotation is not bool:
                raise ValueError(f"{name}: expected a value, got {str(value).lower()}")
        return values

    @model_validator(mode="after")
    def _fit_together(self) -> Self:
        """Refuse what is wrong together."""
        if (self.tls_cert is None) != (self.tls_key is None):
            raise ValueError("tls_cert, tls_key: expected both or neither, got one")
        if self.tls_client_ca is not None and self.tls_cert is None:
            raise ValueError("tls_client_ca: expected tls_cert and tls_key with it")
        if not self.insecure and self.tls_cert is None and not is_loopback(self.listen):
            raise ValueError(
                f"listen: expected an address of this machine alone, --tls-cert and --tls-key, or --insecure; got "
                f"{self.listen}"
            )
        addresses = {"listen": self.listen, "admin": self.admin}
        if "metrics" in self.model_fields_set:  # the default one gives way
            addresses["metrics"] = self.metrics
        for one, other in combinations([name for name, address in addresses.items() if address], 2):
            if addresses[one] == addresses[other] and not str(addresses[one]).endswith(":0"):
                raise ValueError(f"{one}, {other}: expected different addresses, got {addresses[one]} twice")
        if self.admin is not None and not is_loopback(self.admin):
            raise ValueError(f"admin: expected an address of this machine alone, got {self.admin}")
        return self

    @property
    def limits(self) -> Limits:
        """What a request may ask for."""
        held = machine.memory_bytes() // 4 if self.max_held_mib is None else self.max_held_mib * MIB
        return Limits(
            image_pixels=int(self.max_megapixels * 1e6),
            message_bytes=self.max_message_mib * MIB,
            idle_seconds=self.max_idle,
            waiting=self.max_waiting,
            waiting_bytes=self.max_waiting_mib * MIB,
            waiting_seconds=self.max_waiting_seconds,
            held_bytes=held,
            client_share=self.client_share,
            streams=self.max_streams,
            large=self.max_large,
            spool_bytes=self.spool_mib * MIB,
            plan_bytes=self.max_plan_mib * MIB,
        )

    @property
    def tuning(self) -> Tuning:
        """How images are cut into tiles and strips."""
        return Tuning(tile_bytes=self.tile_mib * MIB, tile_seconds=self.tile_ms / 1e3)

    @property
    def weights_bytes(self) -> int | None:
        """Of the sessions in memory; None: all."""
        return None if self.weights_mib is None else self.weights_mib * MIB

    @property
    def batching(self) -> Batching:
        """How tiles are put together."""
        return Batching(self.batch, self.batch_delay_ms / 1e3, self.tile_ms / 1e3, self.tile_mib * MIB)

    def text(self) -> str:
        """Every setting in force, as YAML."""
        values = self.model_dump(mode="json", exclude={"config", "print_config"})
        values |= {"threads": self.threads or machine.cpus(), "max_held_mib": self.limits.held_bytes // MIB}
        return str(yaml.safe_dump(values, sort_keys=False, allow_unicode=True))


class _File(PydanticBaseSettingsSource):
    """The YAML file that a flag or a variable names, if any."""

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:  # noqa: ARG002 (abstract)
        """Nothing: all fields come together."""
        return None, field_name, False

    def __call__(self) -> dict[str, Any]:
        path = self.current_state.get("config")
        if path is None:
            return {}
        if not str(path):
            raise ConfigurationError("config: expected a path, got ''")
        try:
            text = Path(path).read_text("utf-8")
            values, node = yaml.safe_load(text), yaml.compose(text, yaml.SafeLoader)
        except OSError as error:
            raise ConfigurationError(f"config: {path}: cannot be read: {error.strerror}") from None
        except (ValueError, yaml.YAMLError) as error:  # ValueError: not UTF-8, or a date that is none
            raise ConfigurationError(f"config: {path}: expected YAML: {' '.join(str(error).split())}") from None
        if values is None or node is None:
            return {}
        if not isinstance(values, dict):
            raise ConfigurationError(f"config: {path}: expected settings, 'name: value', got {type(values).__name__}")
        for name, times in Counter(str(key.value) for key, _ in node.value).items():
            if times > 1:
                raise ConfigurationError(f"config: {path}: {name}: expected once, got {times} times")
        for name in {"config", "print_config"} & set(values):
            raise ConfigurationError(f"config: {path}: {name}: expected on the command line, or in the environment")
        return {str(name): value for name, value in values.items()}


def read_settings(arguments: list[str]) -> Settings:
    """Read flags, environment and file; raises ConfigurationError."""
    known = {f"{PREFIX}{name.upper()}" for name in Settings.model_fields}
    for name in os.environ:
        if name.upper().startswith(PREFIX) and name.upper() not in known and not OTHERS.fullmatch(name.upper()):
            raise ConfigurationError(f"{name}: no such setting in the environment; --help names all")
    try:
        return Settings(_cli_parse_args=arguments)  # type: ignore[call-arg]
    except ValidationError as error:
        raise ConfigurationError("; ".join(_said(dict(one)) for one in error.errors())) from None
    except SettingsError as error:
        raise ConfigurationError(str(error.__cause__ or error)) from None


def _said(error: dict[str, Any]) -> str:
    name = ".".join(map(str, error["loc"]))
    match error["type"]:
        case "extra_forbidden":
            return f"{name}: no such setting; --help names all"
        case "missing":
            return f"{name}: expected a value, got none"
    message = error["msg"].removeprefix("Value error, ")
    return f"{name}: {message}, got {error['input']!r}" if name else message
