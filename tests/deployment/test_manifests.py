"""Files that are deployed beside the image: for Kubernetes, Prometheus, Grafana and Envoy."""

import json
import re
from collections.abc import Iterator
from typing import Any

import kubernetes_validate
import pytest
import typer
import yaml
from support.paths import ROOT

from fullconv.command.usage import takes
from service.batch.line import BatchLine
from service.dispatch.admission import Admission
from service.dispatch.places import Places
from service.engine.registry import Registry
from service.engine.scheduler import Scheduler
from service.limits import Limits
from service.metrics import Metrics
from service.server.gauges import add_gauges
from service.server.listening import IDLE_MS
from service.settings import read_settings

DEPLOY = ROOT / "deploy"
MANIFESTS, BATCH = (
    list(yaml.safe_load_all((DEPLOY / "kubernetes" / name).read_text())) for name in ("fullconv.yaml", "batch.yaml")
)
NAMES = [f"{manifest['kind']} {manifest['metadata']['name']}" for manifest in (*MANIFESTS, *BATCH)]


@pytest.mark.parametrize("manifest", [*MANIFESTS, *BATCH], ids=NAMES)
def test_manifests_are_valid(manifest: dict[str, Any]) -> None:
    """Each manifest is valid by Kubernetes's own schema, which knows all of its fields."""
    kubernetes_validate.validate(manifest, "1.33", strict=True)


def test_a_manifest_with_a_mistake_is_invalid() -> None:
    """The schema refuses an unknown field."""
    wrong = {**MANIFESTS[0], "spec": {**MANIFESTS[0]["spec"], "replicsa": 2}}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, "1.33", strict=True)


def test_manifests_fit_together() -> None:
    """The service, the budget and the autoscaler select the deployment's pods; the image exposes their ports."""
    kinds = {manifest["kind"]: manifest for manifest in MANIFESTS}
    labels = kinds["Deployment"]["spec"]["template"]["metadata"]["labels"]
    assert kinds["Service"]["spec"]["selector"] == labels
    assert kinds["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"] == labels
    assert kinds["HorizontalPodAutoscaler"]["spec"]["scaleTargetRef"]["name"] == kinds["Deployment"]["metadata"]["name"]
    (container,) = kinds["Deployment"]["spec"]["template"]["spec"]["containers"]
    exposed = re.search(r"^EXPOSE (.*)$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    assert exposed
    assert {str(port["containerPort"]) for port in container["ports"]} <= set(exposed[1].split())
    user = re.search(r"^USER (.*)$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    assert user
    assert kinds["Deployment"]["spec"]["template"]["spec"]["securityContext"]["runAsUser"] == int(user[1])


def test_the_job_fits_the_command_and_the_servers() -> None:
    """Each index scores a shard, the options are valid, and the pods are as restricted as those of the servers."""
    job = next(manifest["spec"] for manifest in BATCH if manifest["kind"] == "Job")
    pod = job["template"]["spec"]
    (container,) = pod["containers"]
    arguments = [each.replace("$(JOB_COMPLETION_INDEX)", "7") for each in container["args"]]
    assert arguments != container["args"]
    line = parsed_line(arguments)
    assert line.shard_of() == (7, job["completions"])
    server = next(manifest for manifest in MANIFESTS if manifest["kind"] == "Deployment")["spec"]["template"]["spec"]
    assert container["securityContext"] == server["containers"][0]["securityContext"]
    assert server["securityContext"].items() <= pod["securityContext"].items()
    workdir = re.search(r"^WORKDIR (.*)$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    assert workdir
    mounts = {mount["mountPath"]: mount.get("readOnly", False) for mount in container["volumeMounts"]}
    assert mounts == {
        f"{workdir[1]}/models": True,
        f"{workdir[1]}/{(line.inputs or [])[0]}": True,
        f"{workdir[1]}/{line.out}": False,
        "/tmp": False,  # noqa: S108 (in a container)
    }
    claims = [
        volume["persistentVolumeClaim"]["claimName"] for volume in pod["volumes"] if "persistentVolumeClaim" in volume
    ]
    made = {manifest["metadata"]["name"] for manifest in (*MANIFESTS, *BATCH)}
    assert set(claims) <= made


def parsed_line(arguments: list[str]) -> BatchLine:
    """Return the command line of a job as `fullconv-batch` parses it."""
    lines: list[BatchLine] = []
    app = typer.Typer()
    app.command()(takes(BatchLine)(lines.append))
    app(arguments, standalone_mode=False)
    return lines[0]


def test_the_image_starts_with_valid_settings() -> None:
    """The settings of the command in the Dockerfile can be parsed."""
    command = re.search(r"^CMD (.*)$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    assert command
    settings = read_settings(json.loads(command[1]))
    assert settings.listen == "0.0.0.0:8500"


def exported() -> set[str]:
    """Return the names of all metrics as Prometheus reads them, without those of the process."""
    metrics, scheduler, places = Metrics(), Scheduler(slots=1), Places(1, 1.0, 1)
    add_gauges(metrics.collectors, Admission(Limits()), scheduler, Registry(ROOT / "models"), lambda: 0, places)
    scheduler.close()
    ends = {"counter": ["_total"], "histogram": ["_bucket", "_sum", "_count"], "gauge": [""], "info": ["_info"]}
    ours = [family for family in metrics.collectors.collect() if family.name.startswith("fullconv_")]
    return {family.name + end for family in ours for end in ends[family.type]}


def test_dashboard_and_alerts_use_existing_metrics() -> None:
    """Every name in an expression is exported, and every metric is used in an expression."""
    dashboard = json.loads((DEPLOY / "grafana" / "fullconv.json").read_text())
    rules = yaml.safe_load((DEPLOY / "alerts.yml").read_text())["groups"][0]["rules"]
    expressions = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    queried = {
        name for text in (*expressions, *(rule["expr"] for rule in rules)) for name in re.findall(r"fullconv_\w+", text)
    }
    existing = exported()
    assert queried <= existing
    shown = {re.sub("_(total|bucket|sum|count)$", "", name) for name in queried}
    assert not {re.sub("_(total|bucket|sum|count)$", "", name) for name in existing} - shown


def test_alerts_are_in_the_guide() -> None:
    """Each alert's name is in docs/operations.md, which describes the response to it."""
    guide = (ROOT / "docs" / "operations.md").read_text()
    for rule in yaml.safe_load((DEPLOY / "alerts.yml").read_text())["groups"][0]["rules"]:
        assert rule["alert"] in guide
        assert rule["annotations"]["summary"]


ENVOY = yaml.safe_load((DEPLOY / "envoy.yaml").read_text())
FIELDS = {
    "DownstreamTlsContext": {"common_tls_context"},
    "ConnectionLimit": {"stat_prefix", "max_connections"},
    "HttpConnectionManager": {
        "stat_prefix",
        "codec_type",
        "http2_protocol_options",
        "request_headers_timeout",
        "stream_idle_timeout",
        "max_request_headers_kb",
        "common_http_protocol_options",
        "route_config",
        "http_filters",
    },
    "Router": set(),
    "HttpProtocolOptions": {"explicit_http_config"},
}
"""The fields of Envoy's messages that the configuration uses, from Envoy's own protobuf files."""


def typed_configs(value: object) -> Iterator[dict[str, Any]]:
    """Every message of the configuration that names its type."""
    if isinstance(value, dict):
        if "@type" in value:
            yield value
        value = list(value.values())
    if isinstance(value, list):
        for each in value:
            yield from typed_configs(each)


def test_envoy_is_configured_by_fields_that_there_are() -> None:
    """Each message has a known type and only known fields."""
    found = {}
    for config in typed_configs(ENVOY):
        kind = config["@type"].rpartition(".")[2]
        found[kind] = set(config) - {"@type"}
        assert config["@type"].startswith("type.googleapis.com/envoy.extensions.")
    assert found == FIELDS


def test_envoy_has_the_limits_of_the_server() -> None:
    """The proxy waits as long for messages as the server, closes connections as early, and finds its port."""
    settings = read_settings(["--models", "models"])
    (manager,) = (each for each in typed_configs(ENVOY) if each["@type"].endswith(".HttpConnectionManager"))
    assert manager["stream_idle_timeout"] == f"{settings.max_receive:g}s"
    assert manager["common_http_protocol_options"]["max_connection_duration"] == f"{settings.max_age:g}s"
    assert manager["common_http_protocol_options"]["idle_timeout"] == f"{IDLE_MS // 1000}s"
    assert manager["http2_protocol_options"]["initial_stream_window_size"] == 65535
    (cluster,) = ENVOY["static_resources"]["clusters"]
    (health,) = cluster["health_checks"]
    assert "grpc_health_check" in health
    (group,) = cluster["load_assignment"]["endpoints"]
    (endpoint,) = group["lb_endpoints"]
    service = next(manifest for manifest in MANIFESTS if manifest["kind"] == "Service")
    address = endpoint["endpoint"]["address"]["socket_address"]
    assert address["address"] == service["metadata"]["name"]
    assert address["port_value"] == 8500
