"""Checkpoints that runners told, until they are committed.

The pool notes each as it is heard and commits them with its passes; before an attempt's outcome is committed, its checkpoint is, since
whoever takes the generation next is given it.
"""

from darkroom.api.model_runner.v1 import runner_service_pb2 as pb
from darkroom.scheduler.domain import fleet
from darkroom.scheduler.loop.tenure import Tenure
from darkroom.scheduler.peers import runner as peer


class Kept:
    """As far as the database has not heard of them, in the order told: the newest of an attempt is kept, the others may go."""

    def __init__(self, tenure: Tenure) -> None:
        self._tenure = tenure
        self._told: dict[str, fleet.Checkpoint] = {}  # by media_id

    def note(self, message: pb.Checkpoint) -> None:
        """Take one that names a place; a suspended attempt may have none of its own."""
        if checkpoint := peer.checkpoint(message):
            self._told[checkpoint.media_id] = checkpoint

    async def commit(self, key: fleet.Key) -> bool:
        """Commit what was told of an attempt; False if there is nothing, or the attempt is not current."""
        kept = False
        for checkpoint in [one for one in self._told.values() if one.key == key]:
            kept |= await self._tenure.keep(checkpoint)
            self._told.pop(checkpoint.media_id, None)
        return kept

    async def commit_all(self) -> None:
        """Commit everything that was told."""
        for key in {one.key for one in self._told.values()}:
            await self.commit(key)
