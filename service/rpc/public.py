"""The services that need no token, health and reflection. Few of their messages are received at the same time.

The handlers that grpcio generates would let any peer send messages of the largest size without a limit of their number.
"""

from collections.abc import AsyncIterator
from dataclasses import replace
from typing import TypeVar

import grpc
from google.protobuf.message import Message
from grpc_health.v1 import health, health_pb2
from grpc_reflection.v1alpha import reflection, reflection_pb2

from service.dispatch.call import Call
from service.errors import IdleError, ServiceError
from service.limits import Limits
from service.rpc.access import Access
from service.rpc.calls import parsed
from service.rpc.receiving import Receiver
from service.rpc.status import status_of

MESSAGES, SECONDS = 4, 2.0
"""Number of messages that are received at the same time, and seconds within which a message must arrive."""

Request = TypeVar("Request", bound=Message)


class PublicServices:
    """Makes the handlers of health and reflection."""

    def __init__(self, limits: Limits) -> None:
        self._receiver = Receiver(
            replace(limits, waiting_bytes=MESSAGES * limits.message_bytes, receive_seconds=SECONDS)
        )

    def health(self, servicer: health.aio.HealthServicer) -> grpc.GenericRpcHandler:
        """Return the handlers of the service for health checks."""

        async def check(_: object, context: grpc.aio.ServicerContext) -> health_pb2.HealthCheckResponse:
            response: health_pb2.HealthCheckResponse
            response = await servicer.Check(await self._request(health_pb2.HealthCheckRequest, context), context)
            return response

        async def watch(_: object, context: grpc.aio.ServicerContext) -> None:
            await servicer.Watch(await self._request(health_pb2.HealthCheckRequest, context), context)

        serializer = health_pb2.HealthCheckResponse.SerializeToString
        methods = {
            "Check": grpc.stream_unary_rpc_method_handler(check, response_serializer=serializer),
            "Watch": grpc.stream_stream_rpc_method_handler(watch, response_serializer=serializer),
        }
        return grpc.method_handlers_generic_handler(health.SERVICE_NAME, methods)

    def reflection(self, services: tuple[str, ...]) -> grpc.GenericRpcHandler:
        """Return the handler of reflection for some services. A stream without a request for SECONDS ends."""
        servicer = reflection.aio.ReflectionServicer((*services, reflection.SERVICE_NAME))
        kind = reflection_pb2.ServerReflectionRequest

        async def requests(context: grpc.aio.ServicerContext) -> AsyncIterator[reflection_pb2.ServerReflectionRequest]:
            try:
                while (data := await self._data(context)) is not None:
                    yield parsed(kind, data)
            except IdleError:
                return

        async def info(_: object, context: grpc.aio.ServicerContext) -> None:
            try:
                async for response in servicer.ServerReflectionInfo(requests(context), context):
                    await context.write(response)
            except ServiceError as error:
                await context.abort(*status_of(error))

        serializer = reflection_pb2.ServerReflectionResponse.SerializeToString
        methods = {"ServerReflectionInfo": grpc.stream_stream_rpc_method_handler(info, response_serializer=serializer)}
        return grpc.method_handlers_generic_handler(reflection.SERVICE_NAME, methods)

    async def _request(self, kind: type[Request], context: grpc.aio.ServicerContext) -> Request:
        """Return the only request of a call; an error becomes the status of the call."""
        try:
            return parsed(kind, await self._data(context) or b"")
        except ServiceError as error:
            await context.abort(*status_of(error))
            raise AssertionError("abort raises") from None

    async def _data(self, context: grpc.aio.ServicerContext) -> bytes | None:
        """Return the next message; None at the end of the stream."""
        call = Call("", Access.address(context), connection=context.peer())
        data = await self._receiver.read(call, context.read)
        return None if data is grpc.aio.EOF else bytes(data)
