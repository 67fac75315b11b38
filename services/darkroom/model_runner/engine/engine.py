"""The thread that owns the accelerator, and the engine's face to the other threads.

In: jobs and cancels, from any thread. Out: events, through `on_event`, on the engine's own thread. Between two steps
the thread takes what has arrived and hands it to `step_loop`, which does all the work; when there is none, it waits.
Next: `step_loop`.
"""

import contextlib
import logging
import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import torch

from darkroom.model_runner.engine import errors, host_memory, measured
from darkroom.model_runner.engine.families import FAMILIES, Load
from darkroom.model_runner.engine.job import Ended, EngineConfig, Event, Job, ModelSpec, Snapshot
from darkroom.model_runner.engine.step_loop import StepLoop

_log = logging.getLogger(__name__)

_SAVE_INTERVAL_S = 60.0
"""Between two writings of the costs: a crash loses a minute of measuring."""


class Engine:
    """An accelerator's engine. Any thread may call its methods; `on_event` must be quick and must not raise."""

    def __init__(
        self,
        config: EngineConfig,
        specs: Sequence[ModelSpec],
        on_event: Callable[[Event], None],
        *,
        families: Mapping[str, Load] = FAMILIES,
    ) -> None:
        """Start the engine's thread; models are loaded when a job first needs them."""
        self._on_event = on_event
        self._device = torch.device(config.device)
        if self._device.type == "cpu":
            host_memory.keep()
        self._inbox: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._keys: set[str] = set()
        self._closing = False
        self._lock = threading.Lock()  # guards the two above
        self._measured = measured.File(config, specs)
        files_and_a_digest = config.encode_threads + 1
        self._pool = ThreadPoolExecutor(files_and_a_digest, thread_name_prefix="engine-files")
        self._loop = StepLoop(
            config,
            specs,
            self._emit,
            families=families,
            pool=self._pool,
            wake=lambda: self._inbox.put(lambda: None),
            costs=self._measured.read(),
        )
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()

    def submit(self, job: Job) -> None:
        """Accept a job, whose last event will be Finished, Failed, Cancelled or Suspended.

        ValueError if a job with this key is here already; Closing if the engine is closed or has lost its device.
        """
        with self._lock:
            if self._closing:
                raise errors.Closing("the runner is closing")
            if job.key in self._keys:
                raise ValueError(f"job {job.key} is already here")
            self._keys.add(job.key)
            arrived_us = time.monotonic_ns() // 1000  # a model may be loading: the wait begins now all the same
            self._inbox.put(lambda: self._loop.accept(job, arrived_us=arrived_us))

    def cancel(self, job_key: str) -> None:
        """End a job within one step; nothing happens if it has ended already."""
        self._inbox.put(lambda: self._loop.cancel(job_key))

    def drain(self) -> None:
        """Have every job that is here now saved between two steps and ended, as an event Suspended."""
        self._inbox.put(self._loop.drain)

    def close(self) -> None:
        """Stop after the current step, fail what is left as `closing`, and wait for the threads."""
        self._inbox.put(None)
        self._thread.join()
        self._pool.shutdown(cancel_futures=True)

    @property
    def is_idle(self) -> bool:
        """Whether no job is waiting or running."""
        return not self._keys

    @property
    def is_alive(self) -> bool:
        """Whether the engine can work; False once it is closed or has lost its device."""
        return self._thread.is_alive()

    def snapshot(self) -> Snapshot:
        """Return the engine as it was after its last step."""
        return self._loop.snapshot

    def _run(self) -> None:
        reason: errors.EngineError = errors.Closing("the runner is closing")
        worked, saved_s = False, time.monotonic()
        try:
            if self._device.type == "cuda" and self._device.index is not None:
                torch.cuda.set_device(self._device)  # else what names no device would take memory on the first one
            with torch.inference_mode():
                while self._receive(wait=not worked):
                    worked = self._loop.turn()
                    if time.monotonic() - saved_s >= _SAVE_INTERVAL_S:
                        self._keep_costs()
                        saved_s = time.monotonic()
        except Exception as error:
            reason = errors.translate(error)
            _log.critical("the engine stopped", exc_info=error)
        finally:
            self._end(reason)

    def _receive(self, *, wait: bool) -> bool:
        """Do what was asked for meanwhile, waiting for something if told to; False when it is time to close."""
        while True:
            try:
                asked = self._inbox.get(block=wait)
            except queue.Empty:
                return True
            if asked is None:
                return False
            asked()
            wait = False

    def _end(self, reason: errors.EngineError) -> None:
        with self._lock:
            self._closing = True
        while not self._inbox.empty():
            if asked := self._inbox.get():
                with contextlib.suppress(Exception):  # a device that is lost cannot be asked to save anything
                    asked()
        self._loop.fail_all(reason)
        self._keep_costs()

    def _keep_costs(self) -> None:
        seen = self._loop.snapshot
        self._measured.write(measured.Costs(seen.step_costs, seen.fixed_costs))

    def _emit(self, event: Event) -> None:
        if isinstance(event, Ended):
            with self._lock:
                self._keys.remove(event.job_key)
        self._on_event(event)
