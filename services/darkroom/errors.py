"""The tree of errors, and the one table from it to gRPC.

Verbs, stores and servicers raise these; `rpc.status` turns them into rich gRPC statuses (and back) by each class's
`code`, so this module needs no gRPC. `fault` says who can mend it: the caller by asking differently, or the platform by
itself.

    DarkroomError
    ├── InvalidArgument     INVALID_ARGUMENT     caller     + BadRequest (the fields)
    ├── NotFound            NOT_FOUND            caller     + ResourceInfo
    ├── AlreadyExists       ALREADY_EXISTS       caller     + ResourceInfo
    ├── FailedPrecondition  FAILED_PRECONDITION  caller
    ├── Unauthenticated     UNAUTHENTICATED      caller
    ├── PermissionDenied    PERMISSION_DENIED    caller
    ├── ResourceExhausted   RESOURCE_EXHAUSTED   platform   + RetryInfo
    ├── Aborted             ABORTED              platform
    ├── Unavailable         UNAVAILABLE          platform   + RetryInfo
    ├── DeadlineExceeded    DEADLINE_EXCEEDED    platform
    └── Internal            INTERNAL             platform   its message stays in the log

Every status also carries ErrorInfo: domain "darkroom", the error's `reason`, the request id. A message goes to the
caller as it is, so it repeats nothing of another tenant, no secret and no prompt.
"""

from collections.abc import Sequence
from typing import ClassVar, Literal, NamedTuple

DOMAIN = "darkroom"


class FieldViolation(NamedTuple):
    """A field of a request, by its path in the proto ("image.width"), and what it must be."""

    field: str
    description: str


class DarkroomError(Exception):
    """Anything the house refuses or cannot do; `str()` is what the caller is told, one sentence."""

    code: ClassVar[str] = "UNKNOWN"
    fault: ClassVar[Literal["caller", "platform"]] = "platform"

    def __init__(self, message: str, *, reason: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.request_id = ""  # of the call that answered so, at its caller


class InvalidArgument(DarkroomError):
    """A field is wrong, whatever the state of the house; `violations` names each."""

    code = "INVALID_ARGUMENT"
    fault = "caller"

    def __init__(self, violations: Sequence[FieldViolation]) -> None:
        super().__init__("; ".join(f"{field}: {text}" for field, text in violations), reason="INVALID_ARGUMENT")
        self.violations = tuple(violations)

    @classmethod
    def of(cls, field: str, description: str) -> "InvalidArgument":
        """One violation alone."""
        return cls([FieldViolation(field, description)])


class _Resource(DarkroomError):
    """An error about one named thing."""

    _text: ClassVar[str]

    def __init__(self, resource_type: str, name: str) -> None:
        super().__init__(f"{resource_type} {name!r} {self._text}", reason=f"{resource_type.upper()}_{self.code}")
        self.resource_type = resource_type
        self.name = name


class NotFound(_Resource):
    """There is no such thing, or it is another tenant's: the two are never told apart."""

    code = "NOT_FOUND"
    fault = "caller"
    _text = "was not found"


class AlreadyExists(_Resource):
    """There is one already, and it is not the same."""

    code = "ALREADY_EXISTS"
    fault = "caller"
    _text = "exists already, and is not the same"


class FailedPrecondition(DarkroomError):
    """The request is well formed but the state of things forbids it; asking again changes nothing."""

    code = "FAILED_PRECONDITION"
    fault = "caller"

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message, reason=reason)


class Unauthenticated(DarkroomError):
    """No credential, or not a good one."""

    code = "UNAUTHENTICATED"
    fault = "caller"

    def __init__(self, message: str) -> None:
        super().__init__(message, reason="UNAUTHENTICATED")


class PermissionDenied(DarkroomError):
    """A good credential that lacks the scope."""

    code = "PERMISSION_DENIED"
    fault = "caller"

    def __init__(self, scope: str) -> None:
        super().__init__(f"this call needs the scope {scope!r}", reason="SCOPE_MISSING")
        self.scope = scope


class ResourceExhausted(DarkroomError):
    """A limit is reached for now; `retry_after_s` says when to ask again (seconds)."""

    code = "RESOURCE_EXHAUSTED"

    def __init__(self, reason: str, message: str, *, retry_after_s: float) -> None:
        super().__init__(message, reason=reason)
        self.retry_after_s = retry_after_s


class Aborted(DarkroomError):
    """Somebody else was first; read again and decide again."""

    code = "ABORTED"

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message, reason=reason)


class Unavailable(DarkroomError):
    """Something the house needs is away; whether the work was done is not known. Ask again after `retry_after_s`."""

    code = "UNAVAILABLE"

    def __init__(self, message: str, *, retry_after_s: float = 1.0) -> None:
        super().__init__(message, reason="UNAVAILABLE")
        self.retry_after_s = retry_after_s


class DeadlineExceeded(DarkroomError):
    """It took longer than it may; whether the work was done is not known."""

    code = "DEADLINE_EXCEEDED"

    def __init__(self, message: str) -> None:
        super().__init__(message, reason="DEADLINE_EXCEEDED")


class Internal(DarkroomError):
    """A fault of ours; the message is for the log, the caller gets "internal error" and the request id."""

    code = "INTERNAL"

    def __init__(self, message: str) -> None:
        super().__init__(message, reason="INTERNAL")
