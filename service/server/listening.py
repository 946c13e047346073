"""The options of the gRPC server, and binding it to an address."""

import grpc

from service.settings import Settings

CALLS_BESIDE = 16
"""Calls on one connection beside requests and streams: health checks."""
KEEPALIVE_MS = 60_000
IDLE_MS = 600_000
"""Milliseconds after which a connection without a call is closed."""
HANDSHAKE_MS = 10_000
"""Milliseconds within which a new connection must have completed the handshakes of TLS and HTTP/2."""
MAX_FRAME_BYTES = 1 << 20
"""Largest frame: the largest window of a message. gRPC allocates memory for some frames before they arrive."""
IDENTITY = 1
"""Set of compression algorithms: none. A small compressed message may expand to the largest message."""


def server_options(settings: Settings) -> list[tuple[str, int]]:
    """Return the channel arguments of the gRPC server."""
    message_bytes = settings.limits.message_bytes
    options = [
        ("grpc.max_receive_message_length", message_bytes),
        ("grpc.max_send_message_length", message_bytes),
        ("grpc.max_concurrent_streams", settings.max_waiting + settings.max_streams + CALLS_BESIDE),
        ("grpc.http2.max_frame_size", MAX_FRAME_BYTES),  # fewer frames a message: no other call is served between them
        ("grpc.http2.bdp_probe", 0),  # or the window grows to 8 MiB also for messages that nobody reads
        ("grpc.compression_enabled_algorithms_bitset", IDENTITY),
        ("grpc.max_connection_idle_ms", IDLE_MS),
        ("grpc.server_handshake_timeout_ms", HANDSHAKE_MS),
        ("grpc.keepalive_time_ms", KEEPALIVE_MS),  # notices clients whose machine is gone
        ("grpc.http2.ping_timeout_ms", KEEPALIVE_MS // 3),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.so_reuseport", 0),  # a second server on the port is an error
    ]
    if settings.max_age:
        options.append(("grpc.max_connection_age_ms", int(settings.max_age * 1e3)))  # its calls may end
    return options


def bind(server: grpc.aio.Server, setting: str, address: str, credentials: grpc.ServerCredentials | None = None) -> str:
    """Listen on HOST:PORT; returns the address with the port that was assigned. Raises OSError, naming the setting."""
    try:
        port = server.add_secure_port(address, credentials) if credentials else server.add_insecure_port(address)
    except RuntimeError as error:
        reason = str(error).partition(";")[0]  # the rest explains how to see gRPC's own log
        way_out = "check that the port is free and that the host is an address of this machine"
        raise OSError(f"{setting}: cannot listen on {address}: {reason}; {way_out}") from None
    return f"{address.rpartition(':')[0]}:{port}"
