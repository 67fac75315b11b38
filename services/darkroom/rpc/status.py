"""Errors on the wire: from the tree of `errors` to a rich gRPC status, and back.

At the server `door` hands in any exception and gets what the caller may know; at the client `from_rpc_error` makes the
same error of it again. Sizes are bounded, as a status travels in trailers that clients refuse above 8 KiB.
"""

from collections.abc import Mapping
from typing import TypeVar

import grpc
from google.protobuf import duration_pb2, message
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from darkroom import errors

DETAILS_KEY = "grpc-status-details-bin"
VIOLATIONS_MAX = 10
_FIELD_BYTES_MAX = 100
_TEXT_BYTES_MAX = 200
_MESSAGE_BYTES_MAX = 300

_PEER_AWAY = frozenset({grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED})

_Detail = TypeVar("_Detail", bound=message.Message)


def public(error: BaseException) -> errors.DarkroomError:
    """What the caller may know of an exception: itself if it is of the tree, else that a peer is away, else nothing."""
    if isinstance(error, errors.DarkroomError):
        return error
    if isinstance(error, grpc.aio.AioRpcError) and error.code() in _PEER_AWAY:
        return errors.Unavailable("a service that this call needs does not answer")
    return errors.Internal("uncaught")


def to_status(error: errors.DarkroomError, *, request_id: str) -> status_pb2.Status:
    """Make the status with its details (ten violations at most); an Internal error's own message stays here."""
    text = f"internal error (request {request_id})" if isinstance(error, errors.Internal) else str(error)
    made = status_pb2.Status(code=grpc.StatusCode[error.code].value[0], message=_cut(text, _MESSAGE_BYTES_MAX))
    for detail in _details(error, request_id):
        made.details.add().Pack(detail)
    return made


def from_rpc_error(error: grpc.aio.AioRpcError) -> errors.DarkroomError:
    """Make a call's error into one of the tree, with a `request_id` attribute to quote to the operator."""
    status = rpc_status.from_call(error)
    info = _find(status, error_details_pb2.ErrorInfo)
    made = _from_code(error, status, info)
    made.request_id = info.metadata["request_id"] if info else ""
    return made


def _details(error: errors.DarkroomError, request_id: str) -> list[message.Message]:
    metadata = {"request_id": request_id, "fault": error.fault}
    found: list[message.Message] = []
    match error:
        case errors.InvalidArgument():
            violations = [
                error_details_pb2.BadRequest.FieldViolation(
                    field=_cut(field, _FIELD_BYTES_MAX), description=_cut(text, _TEXT_BYTES_MAX)
                )
                for field, text in error.violations[:VIOLATIONS_MAX]
            ]
            found.append(error_details_pb2.BadRequest(field_violations=violations))
        case errors.NotFound() | errors.AlreadyExists():
            found.append(
                error_details_pb2.ResourceInfo(
                    resource_type=error.resource_type, resource_name=_cut(error.name, _TEXT_BYTES_MAX)
                )
            )
        case errors.ResourceExhausted() | errors.Unavailable():
            delay = duration_pb2.Duration()
            delay.FromMilliseconds(round(error.retry_after_s * 1000))
            found.append(error_details_pb2.RetryInfo(retry_delay=delay))
        case errors.PermissionDenied():
            metadata["scope"] = error.scope
    return [error_details_pb2.ErrorInfo(domain=errors.DOMAIN, reason=error.reason, metadata=metadata), *found]


def _from_code(
    error: grpc.aio.AioRpcError, status: status_pb2.Status | None, info: error_details_pb2.ErrorInfo | None
) -> errors.DarkroomError:
    text = error.details() or "the call failed"
    reason = info.reason if info else error.code().name
    metadata: Mapping[str, str] = info.metadata if info else {}
    match error.code():
        case grpc.StatusCode.INVALID_ARGUMENT:
            bad = _find(status, error_details_pb2.BadRequest)
            found = [errors.FieldViolation(one.field, one.description) for one in bad.field_violations] if bad else []
            return errors.InvalidArgument(found or [errors.FieldViolation("request", text)])
        case grpc.StatusCode.NOT_FOUND:
            return errors.NotFound(*_resource(status))
        case grpc.StatusCode.ALREADY_EXISTS:
            return errors.AlreadyExists(*_resource(status))
        case grpc.StatusCode.UNAUTHENTICATED:
            return errors.Unauthenticated(text)
        case grpc.StatusCode.PERMISSION_DENIED:
            return errors.PermissionDenied(metadata.get("scope", ""))
        case grpc.StatusCode.FAILED_PRECONDITION:
            return errors.FailedPrecondition(reason, text)
        case grpc.StatusCode.ABORTED:
            return errors.Aborted(reason, text)
        case grpc.StatusCode.RESOURCE_EXHAUSTED:
            return errors.ResourceExhausted(reason, text, retry_after_s=_retry_after_s(status))
        case grpc.StatusCode.UNAVAILABLE:  # without details it is the transport's own, whose text tells addresses
            message_ = text if info else "the service does not answer"
            return errors.Unavailable(message_, retry_after_s=_retry_after_s(status))
        case grpc.StatusCode.DEADLINE_EXCEEDED:
            return errors.DeadlineExceeded("the service did not answer in time")
    return errors.Internal(text)


def _find(status: status_pb2.Status | None, kind: type[_Detail]) -> _Detail | None:
    for packed in status.details if status else ():
        detail = kind()
        if packed.Unpack(detail):
            return detail
    return None


def _resource(status: status_pb2.Status | None) -> tuple[str, str]:
    found = _find(status, error_details_pb2.ResourceInfo)
    return (found.resource_type, found.resource_name) if found else ("resource", "")


def _retry_after_s(status: status_pb2.Status | None) -> float:
    found = _find(status, error_details_pb2.RetryInfo)
    return found.retry_delay.ToMilliseconds() / 1000 if found else 1.0


def _cut(text: str, bytes_max: int) -> str:
    return text.encode("utf-8", "replace")[:bytes_max].decode("utf-8", "ignore")
