"""What the runner's accelerator is, and how it is at this moment.

In: which device ("auto", "cpu" or "nvml:<index>"). Out: `DeviceIdentity` once, a `DeviceSample` at each call, from NVML
through nvidia-ml-py, or from psutil where there is no NVIDIA hardware. NVML is node-local and may answer "not supported"
to any question: that field is None. A device that is lost, broke with a fatal Xid, or counts uncorrectable ECC errors says
so in `unhealthy_reason`. Next: `loop` streams the samples to the scheduler, which filters and predicts with them.

The calls block for a few milliseconds (longer on a dying device): call them from a thread, not from the event loop.
"""

import dataclasses
import datetime
import os
import platform
import re
from collections.abc import Callable
from typing import Any, Protocol

import psutil
import pynvml

from darkroom import clock

# Xids that an application causes by itself: the GPU goes on. NVIDIA's Kubernetes device plugin ignores the same six:
# graphics exception, page fault, stopped processing, preemptive clean-up, video processor exception, context switch time-out.
_APPLICATION_XIDS = frozenset({13, 31, 43, 45, 68, 109})
_XIDS_PER_SAMPLE_MAX = 64
_UNANSWERED = (
    pynvml.NVMLError_NotSupported,
    pynvml.NVMLError_NoPermission,
    pynvml.NVMLError_NoData,
    pynvml.NVMLError_FunctionNotFound,
)


@dataclasses.dataclass(frozen=True)
class DeviceIdentity:
    """What an accelerator is; does not change while the runner lives."""

    product: str
    """Product name, such as "NVIDIA H200", or "cpu"."""
    uuid: str
    """NVML's unique id; the host's name for a CPU."""
    memory_bytes: int
    """0 where NVML does not say."""
    driver_version: str
    """Empty for a CPU."""


@dataclasses.dataclass(frozen=True)
class GpuProcess:
    """A process that computes on the device."""

    pid: int
    memory_used_bytes: int | None
    own: bool
    """Whether it is the runner or one of its descendants. A pod without the host's process ids sees itself as foreign."""


@dataclasses.dataclass(frozen=True)
class DeviceSample:
    """What one device showed at one moment; None where it did not answer."""

    sampled_at: datetime.datetime
    utilization_percent: int | None = None
    """Share of time the device was busy, 0 to 100. For a CPU: with other processes than the runner."""
    memory_used_bytes: int | None = None
    memory_total_bytes: int | None = None
    power_mw: int | None = None
    temperature_c: int | None = None
    throttle_reasons: int | None = None
    """NVML's bit mask of reasons for lowered clocks; bit 0 is an idle GPU."""
    ecc_uncorrectable: int | None = None
    """Uncorrectable ECC errors since the driver was loaded."""
    last_xid: int | None = None
    """The last Xid since the sampler was opened."""
    processes: tuple[GpuProcess, ...] = ()
    unhealthy_reason: str = ""
    """Why the device must get no work, in one sentence; empty while it is healthy."""

    @property
    def healthy(self) -> bool:
        """Whether the device may get work."""
        return not self.unhealthy_reason

    @property
    def foreign_processes(self) -> int:
        """How many processes on the device are not the runner's own."""
        return sum(not process.own for process in self.processes)


class Sampler(Protocol):
    """Watches one device."""

    identity: DeviceIdentity

    def sample(self) -> DeviceSample:
        """Look at the device now; never raises for what the device does."""
        ...

    def close(self) -> None:
        """Let go of the device."""
        ...


def open_sampler(spec: str) -> Sampler:
    """Watch the device named "cpu", "nvml:<index>" or "auto" (the first NVIDIA device, or the CPU where there is none).

    Raises ValueError for any other name, and NVMLError where the driver is broken or has no such device: "auto" does not
    turn a broken GPU into a CPU.
    """
    if spec == "cpu" or (spec == "auto" and device_count() == 0):
        return CpuSampler()
    if spec == "auto":
        return NvmlSampler(0)
    named = re.fullmatch(r"nvml:(\d{1,3})", spec)
    if named is None:
        raise ValueError(f'the device must be "auto", "cpu" or "nvml:<index>", not "{spec}"')
    return NvmlSampler(int(named[1]))


def device_count() -> int:
    """Return how many NVIDIA devices this machine shows; 0 without NVIDIA's library or driver."""
    try:
        pynvml.nvmlInit()
    except (pynvml.NVMLError_LibraryNotFound, pynvml.NVMLError_DriverNotLoaded):
        return 0
    try:
        return int(pynvml.nvmlDeviceGetCount())
    finally:
        pynvml.nvmlShutdown()


class NvmlSampler:
    """Watches one NVIDIA device, by its NVML index."""

    def __init__(self, index: int) -> None:
        pynvml.nvmlInit()
        self._device = pynvml.nvmlDeviceGetHandleByIndex(index)
        memory = _ask(pynvml.nvmlDeviceGetMemoryInfo, self._device)
        self.identity = DeviceIdentity(
            product=pynvml.nvmlDeviceGetName(self._device),
            uuid=pynvml.nvmlDeviceGetUUID(self._device),
            memory_bytes=0 if memory is None else int(memory.total),
            driver_version=pynvml.nvmlSystemGetDriverVersion(),
        )
        self._last_xid: int | None = None
        self._fatal_xid: int | None = None
        self._events = _ask(self._watch_xids)

    def sample(self) -> DeviceSample:
        """Ask NVML everything; a device that fails to answer is unhealthy."""
        try:
            return self._ask_everything()
        except pynvml.NVMLError as error:
            return DeviceSample(sampled_at=clock.utc_now(), last_xid=self._last_xid, unhealthy_reason=_failure(error))

    def close(self) -> None:
        """Free the event set and leave NVML."""
        if self._events is not None:
            pynvml.nvmlEventSetFree(self._events)
        pynvml.nvmlShutdown()

    def _ask_everything(self) -> DeviceSample:
        device = self._device
        self._collect_xids()
        utilization = _ask(pynvml.nvmlDeviceGetUtilizationRates, device)
        memory = _ask(pynvml.nvmlDeviceGetMemoryInfo, device)
        ecc = _ask(self._ecc_uncorrectable)
        return DeviceSample(
            sampled_at=clock.utc_now(),
            utilization_percent=None if utilization is None else int(utilization.gpu),
            memory_used_bytes=None if memory is None else int(memory.used),
            memory_total_bytes=None if memory is None else int(memory.total),
            power_mw=_ask(pynvml.nvmlDeviceGetPowerUsage, device),
            temperature_c=_ask(pynvml.nvmlDeviceGetTemperature, device, pynvml.NVML_TEMPERATURE_GPU),
            throttle_reasons=_ask(pynvml.nvmlDeviceGetCurrentClocksThrottleReasons, device),
            ecc_uncorrectable=ecc,
            last_xid=self._last_xid,
            processes=_processes(_ask(pynvml.nvmlDeviceGetComputeRunningProcesses, device) or []),
            unhealthy_reason=unhealthy_reason(fatal_xid=self._fatal_xid, ecc_uncorrectable=ecc),
        )

    def _ecc_uncorrectable(self) -> int:
        kind, since_boot = pynvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED, pynvml.NVML_VOLATILE_ECC
        return int(pynvml.nvmlDeviceGetTotalEccErrors(self._device, kind, since_boot))

    def _watch_xids(self) -> Any:
        events = pynvml.nvmlEventSetCreate()
        try:
            pynvml.nvmlDeviceRegisterEvents(self._device, pynvml.nvmlEventTypeXidCriticalError, events)
        except pynvml.NVMLError:
            pynvml.nvmlEventSetFree(events)
            raise
        return events

    def _collect_xids(self) -> None:
        for _ in range(_XIDS_PER_SAMPLE_MAX if self._events is not None else 0):
            try:
                event = pynvml.nvmlEventSetWait_v2(self._events, 0)
            except pynvml.NVMLError_Timeout:
                return
            self._last_xid = int(event.eventData)
            if self._last_xid not in _APPLICATION_XIDS:
                self._fatal_xid = self._last_xid


class CpuSampler:
    """Watches this machine's processor, so that everything runs with no NVIDIA hardware."""

    def __init__(self) -> None:
        self.identity = DeviceIdentity(
            product="cpu", uuid=platform.node(), memory_bytes=psutil.virtual_memory().total, driver_version=""
        )
        self._self = psutil.Process()
        self._cores = psutil.cpu_count() or 1
        self.sample()  # shares are measured since the sample before

    def sample(self) -> DeviceSample:
        """Read what the host did since the sample before, and its memory."""
        memory = psutil.virtual_memory()
        return DeviceSample(
            sampled_at=clock.utc_now(),
            utilization_percent=foreign_percent(
                host_percent=psutil.cpu_percent(), own_percent=self._self.cpu_percent(), cores=self._cores
            ),
            memory_used_bytes=memory.total - memory.available,
            memory_total_bytes=memory.total,
        )

    def close(self) -> None:
        """Nothing is held."""


def foreign_percent(*, host_percent: float, own_percent: float, cores: int) -> int:
    """Return the share of all cores that other processes used; `own_percent` counts one core as 100, as psutil does."""
    return round(min(max(host_percent - own_percent / cores, 0.0), 100.0))


def unhealthy_reason(*, fatal_xid: int | None, ecc_uncorrectable: int | None) -> str:
    """Return why a device that answers must still get no work; empty while it is healthy."""
    if fatal_xid is not None:
        return f"the GPU reported the fatal Xid {fatal_xid}"
    if ecc_uncorrectable:
        return f"the GPU counts {ecc_uncorrectable} uncorrectable ECC errors since its driver was loaded"
    return ""


def _failure(error: Exception) -> str:
    if isinstance(error, pynvml.NVMLError_GpuIsLost):
        return "the GPU is lost from the bus"
    if isinstance(error, pynvml.NVMLError_ResetRequired):
        return "the GPU needs a reset"
    return f"the GPU does not answer: {error}"


def _ask(question: Callable[..., Any], *arguments: Any) -> Any:
    try:
        return question(*arguments)
    except _UNANSWERED:
        return None


def _processes(found: list[Any]) -> tuple[GpuProcess, ...]:
    return tuple(
        GpuProcess(pid=process.pid, memory_used_bytes=process.usedGpuMemory, own=_is_own(process.pid))
        for process in found
    )


def _is_own(pid: int) -> bool:
    try:
        return pid == os.getpid() or any(parent.pid == os.getpid() for parent in psutil.Process(pid).parents())
    except psutil.Error:  # gone meanwhile, or in another namespace: not a descendant
        return False
