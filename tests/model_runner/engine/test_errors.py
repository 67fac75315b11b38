import pytest
import torch

from darkroom.model_runner.engine import errors


def test_an_engine_error_stays_what_it_is() -> None:
    error = errors.BadAdapter("key 'x'")
    assert errors.translate(error) is error
    assert (error.code, error.fault) == ("ADAPTER_INVALID", "request")


def test_memory_that_the_host_has_not_got() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(1 << 50)
    assert isinstance(errors.translate(caught.value), errors.OutOfMemory)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (torch.OutOfMemoryError("CUDA out of memory"), "OUT_OF_MEMORY"),
        (MemoryError(), "OUT_OF_MEMORY"),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), "OUT_OF_MEMORY"),
        (
            torch.AcceleratorError("CUDA error: out of memory\nCUDA kernel errors might be asynchronous"),
            "OUT_OF_MEMORY",
        ),
        (torch.AcceleratorError("an illegal memory access was encountered"), "DEVICE_LOST"),
        (ZeroDivisionError("secret"), "INTERNAL"),
    ],
)
def test_kinds(error: Exception, code: str) -> None:
    known = errors.translate(error)
    assert (known.code, known.fault) == (code, "runner")
    assert "secret" not in str(known)


def test_what_the_request_is_to_blame_for() -> None:
    kinds = errors.EngineError.__subclasses__()
    assert {kind.__name__ for kind in kinds if kind.fault == "request"} == {"BadRequest", "BadAdapter"}
    assert len({kind.code for kind in kinds}) == len(kinds)
