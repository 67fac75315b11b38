"""Checkpoints that runners told, until they are committed.

The pool notes each as it is heard and commits them with its passes; before an attempt's outcome is committed, its checkpoint is, since
whoever takes the generation next is given it.
"""

from darkroom.api.model_runner.v1 import runner_service_pb2 as pb
from darkroom.scheduler.domain import fleet
from darkroom.scheduler.loop.tenure import Tenure
from darkroom.scheduler.peers import runner as peer


class Kept:
    """The newest of each attempt, as far as the database does not have it."""

    def __init__(self, tenure: Tenure) -> None:
        self._tenure = tenure
        self._told: dict[fleet.Key, fleet.Checkpoint] = {}

    def note(self, message: pb.Checkpoint) -> None:
        """Take one that names a place; a suspended attempt may have none of its own."""
        if checkpoint := peer.checkpoint(message):
            self._told[checkpoint.key] = checkpoint

    async def commit(self, key: fleet.Key) -> bool:
        """Commit what was told of an attempt; False if there is nothing, or the attempt is not current."""
        checkpoint = self._told.get(key)
        kept = checkpoint is not None and await self._tenure.keep(checkpoint)
        if self._told.get(key) is checkpoint:
            self._told.pop(key, None)
        return kept

    async def commit_all(self) -> None:
        """Commit everything that was told."""
        for key in list(self._told):
            await self.commit(key)
