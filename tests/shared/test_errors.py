"""The tree of errors: each class has a gRPC code, a fault, a reason, and a message of one sentence."""

import grpc
import pytest

from darkroom import errors

EXAMPLES = [
    (
        errors.InvalidArgument.of("steps", "must be from 1 to 100"),
        "caller",
        "INVALID_ARGUMENT",
        "steps: must be from 1 to 100",
    ),
    (errors.NotFound("generation", "gen_1"), "caller", "GENERATION_NOT_FOUND", "generation 'gen_1' was not found"),
    (
        errors.AlreadyExists("tenant", "acme"),
        "caller",
        "TENANT_ALREADY_EXISTS",
        "tenant 'acme' exists already, and is not the same",
    ),
    (errors.FailedPrecondition("BUDGET_SPENT", "the budget is spent"), "caller", "BUDGET_SPENT", "the budget is spent"),
    (errors.Unauthenticated("no key"), "caller", "UNAUTHENTICATED", "no key"),
    (errors.PermissionDenied("operator"), "caller", "SCOPE_MISSING", "this call needs the scope 'operator'"),
    (errors.ResourceExhausted("QUEUE_FULL", "full", retry_after_s=2.0), "platform", "QUEUE_FULL", "full"),
    (errors.Aborted("STALE", "too late"), "platform", "STALE", "too late"),
    (errors.Unavailable("away"), "platform", "UNAVAILABLE", "away"),
    (errors.DeadlineExceeded("slow"), "platform", "DEADLINE_EXCEEDED", "slow"),
    (errors.Internal("why"), "platform", "INTERNAL", "why"),
]


@pytest.mark.parametrize(("error", "fault", "reason", "text"), EXAMPLES, ids=lambda value: type(value).__name__)
def test_each_says_whose_fault_it_is_and_why(error, fault, reason, text):
    assert isinstance(error, errors.DarkroomError)
    assert (error.fault, error.reason, str(error)) == (fault, reason, text)
    assert grpc.StatusCode[error.code] is not grpc.StatusCode.UNKNOWN


def test_the_examples_are_the_whole_tree():
    def leaves(kind):
        below = kind.__subclasses__()
        return {kind} if not below else set().union(*map(leaves, below))

    assert leaves(errors.DarkroomError) == {type(error) for error, *_ in EXAMPLES}


def test_invalid_argument_names_every_field():
    error = errors.InvalidArgument([errors.FieldViolation("a", "is bad"), errors.FieldViolation("b", "is worse")])
    assert str(error) == "a: is bad; b: is worse"
    assert [violation.field for violation in error.violations] == ["a", "b"]
