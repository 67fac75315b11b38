"""The thread that owns the accelerator, and the engine's face to the other threads.

In: jobs and cancels, from any thread. Out: events, through `on_event`, on the engine's own thread. Between two steps
the thread takes what has arrived and hands it to `step_loop`, which does all the work; when there is none, it waits.
Next: `step_loop`.
"""

import logging
import queue
import threading
from collections.abc import Callable, Mapping, Sequence

import torch

from darkroom.model_runner.engine import errors
from darkroom.model_runner.engine.families import FAMILIES, Load
from darkroom.model_runner.engine.job import (
    Cancelled,
    EngineConfig,
    Event,
    Failed,
    Finished,
    Job,
    ModelSpec,
    Snapshot,
)
from darkroom.model_runner.engine.step_loop import StepLoop

_log = logging.getLogger(__name__)

_CLOSE = None


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
        self._inbox: queue.SimpleQueue[Job | str | None] = queue.SimpleQueue()
        self._keys: set[str] = set()
        self._closing = False
        self._lock = threading.Lock()  # guards the two above
        self._loop = StepLoop(config, specs, self._emit, families=families)
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()

    def submit(self, job: Job) -> None:
        """Accept a job, whose last event will be Finished, Failed or Cancelled.

        ValueError if a job with this key is here already; Closing if the engine is closed or has lost its device.
        """
        with self._lock:
            if self._closing:
                raise errors.Closing("the runner is closing")
            if job.key in self._keys:
                raise ValueError(f"job {job.key} is already here")
            self._keys.add(job.key)
            self._inbox.put(job)

    def cancel(self, job_key: str) -> None:
        """End a job within one step; nothing happens if it has ended already."""
        self._inbox.put(job_key)

    def close(self) -> None:
        """Stop after the current step, fail what is left as `closing`, and wait for the thread."""
        self._inbox.put(_CLOSE)
        self._thread.join()

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
        try:
            with torch.inference_mode():
                while self._receive():
                    self._loop.turn()
        except Exception as error:
            reason = errors.translate(error)
            _log.critical("the engine stopped", exc_info=error)
        finally:
            self._end(reason)

    def _receive(self) -> bool:
        """Hand on what has arrived, waiting only when there is no work; False when it is time to close."""
        while True:
            try:
                message = self._inbox.get(block=self._loop.is_idle)
            except queue.Empty:
                return True
            if message is _CLOSE:
                return False
            if isinstance(message, Job):
                self._loop.accept(message)
            else:
                self._loop.cancel(message)

    def _end(self, reason: errors.EngineError) -> None:
        with self._lock:
            self._closing = True
        while not self._inbox.empty():
            message = self._inbox.get()
            if isinstance(message, Job):
                self._loop.accept(message)
        self._loop.fail_all(reason)

    def _emit(self, event: Event) -> None:
        if isinstance(event, Finished | Failed | Cancelled):
            with self._lock:
                self._keys.remove(event.job_key)
        self._on_event(event)
