"""Who is aboard, who listens, and what survives a broken stream: by hand, with attempts that do nothing."""

import asyncio
import datetime

import pytest

from darkroom import errors
from darkroom.api.model_runner.v1 import runner_service_pb2 as pb
from darkroom.model_runner import aboard, messages
from darkroom.model_runner.domain import AttemptKey

KEY = AttemptKey("gen_1", 1, 1)


class Hand:
    """An Aboard, the attempts it began, and those it ended early."""

    def __init__(self) -> None:
        self.begun: list[AttemptKey] = []
        self.stopped: list[AttemptKey] = []
        self.aboard = aboard.Aboard("run_1", self._begin)

    def _begin(self, assign: pb.Assign) -> "Stop":
        key = messages.key_of(assign.key)
        self.begun.append(key)
        return Stop(self, key)

    def open(self, *, epoch: int = 1, grace_s: float = 30.0) -> aboard.Session:
        hello = pb.Hello(owner_epoch=epoch)
        hello.stream_grace.FromTimedelta(datetime.timedelta(seconds=grace_s))
        return self.aboard.open(hello)

    def assign(self, session: aboard.Session, key: AttemptKey = KEY) -> None:
        self.aboard.take(session, pb.WorkRequest(assign=pb.Assign(key=messages.key_to(key))))

    def cancel(self, session: aboard.Session, key: AttemptKey = KEY) -> None:
        self.aboard.take(session, pb.WorkRequest(cancel=pb.Cancel(key=messages.key_to(key))))

    def acknowledge(self, session: aboard.Session, key: AttemptKey = KEY) -> None:
        self.aboard.take(session, pb.WorkRequest(acknowledge=pb.Acknowledge(key=messages.key_to(key))))

    def complete(self, key: AttemptKey = KEY) -> None:
        self.aboard.end(key, pb.WorkResponse(completed=pb.Completed(key=messages.key_to(key))))


class Stop:
    def __init__(self, hand: Hand, key: AttemptKey) -> None:
        self._hand, self._key = hand, key

    def __call__(self) -> None:
        self._hand.stopped.append(self._key)


def told(session: aboard.Session) -> list[str | None]:
    """The kinds of what waits in the session's queue, which is emptied; None is its end."""
    kinds: list[str | None] = []
    while not session.queue.empty():
        message = session.queue.get_nowait()
        kinds.append(message.WhichOneof("message") if isinstance(message, pb.WorkResponse) else None)
    return kinds


@pytest.fixture
async def hand() -> Hand:
    return Hand()


async def test_the_listing_comes_first_and_then_what_was_not_acknowledged(hand: Hand) -> None:
    first = hand.open()
    other = AttemptKey("gen_2", 1, 1)
    hand.assign(first)
    hand.assign(first, other)
    hand.complete()
    assert told(first) == ["listing", "accepted", "accepted", "completed"]

    second = hand.open()
    assert told(first) == [None]
    listing = second.queue.get_nowait()
    assert isinstance(listing, pb.WorkResponse)
    assert listing.listing == pb.Listing(runner_id="run_1", live=[messages.key_to(other)])
    assert told(second) == ["completed"]
    hand.acknowledge(second)
    assert told(hand.open()) == ["listing"]


async def test_every_owner_hears_of_the_newest_checkpoint_until_the_outcome_is_acknowledged(hand: Hand) -> None:
    owner = hand.open()
    hand.assign(owner)
    for step in (2, 3):
        hand.aboard.keep(KEY, pb.Checkpoint(key=messages.key_to(KEY), step=step))
    assert told(owner) == ["listing", "accepted", "checkpoint", "checkpoint"]
    following = hand.open()
    following.queue.get_nowait()
    again = following.queue.get_nowait()
    assert isinstance(again, pb.WorkResponse)
    assert again.checkpoint.step == 3
    hand.complete()
    again = hand.open()
    assert told(again) == ["listing", "checkpoint", "completed"]
    hand.acknowledge(again)
    assert told(hand.open()) == ["listing"]


async def test_a_checkpoint_of_what_is_not_aboard_is_told_once_so_that_it_is_deleted(hand: Hand) -> None:
    owner = hand.open()
    hand.aboard.keep(KEY, pb.Checkpoint(step=1))
    assert told(owner) == ["listing", "checkpoint"]
    assert told(hand.open()) == ["listing"]


async def test_a_lower_epoch_is_refused_and_the_owner_stays(hand: Hand) -> None:
    owner = hand.open(epoch=7)
    with pytest.raises(errors.FailedPrecondition):
        hand.open(epoch=6)
    hand.assign(owner)
    assert told(owner) == ["listing", "accepted"]


async def test_a_replaced_owner_is_not_obeyed(hand: Hand) -> None:
    before = hand.open(epoch=1)
    hand.open(epoch=2)
    hand.assign(before)
    hand.aboard.close(before)
    assert not hand.begun
    assert hand.aboard.has_owner


async def test_the_same_assignment_twice_is_one_attempt(hand: Hand) -> None:
    owner = hand.open()
    hand.assign(owner)
    hand.assign(owner)
    assert hand.begun == [KEY]
    hand.complete()
    hand.assign(owner)
    assert hand.begun == [KEY]
    assert told(owner) == ["listing", "accepted", "accepted", "completed", "completed"]


async def test_a_newer_attempt_of_a_generation_ends_the_older(hand: Hand) -> None:
    owner = hand.open()
    hand.assign(owner)
    hand.assign(owner, KEY._replace(attempt=2))
    assert hand.stopped == [KEY]
    hand.complete()
    assert told(owner) == ["listing", "accepted", "accepted"]
    assert len(hand.aboard) == 1


async def test_a_cancel_stops_what_lives_and_answers_for_what_does_not(hand: Hand) -> None:
    owner = hand.open()
    hand.assign(owner)
    hand.cancel(owner)
    assert hand.stopped == [KEY]
    hand.complete()
    hand.cancel(owner)
    hand.acknowledge(owner)
    hand.cancel(owner)
    assert told(owner) == ["listing", "accepted", "completed", "completed", "cancelled"]


async def test_without_a_stream_the_live_are_dropped_after_the_grace_and_outcomes_kept(hand: Hand) -> None:
    owner = hand.open(grace_s=0.0)
    done = AttemptKey("gen_2", 1, 1)
    hand.assign(owner)
    hand.assign(owner, done)
    hand.aboard.close(owner)
    hand.complete(done)
    assert len(hand.aboard) == 1
    await hand.aboard.idle()
    assert hand.stopped == [KEY]
    hand.complete()
    assert told(hand.open()) == ["listing", "completed"]


async def test_an_owner_that_comes_back_in_time_finds_its_attempts(hand: Hand) -> None:
    owner = hand.open(grace_s=0.0)
    hand.assign(owner)
    hand.aboard.close(owner)
    hand.open()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert not hand.stopped
    assert len(hand.aboard) == 1


async def test_a_draining_runner_takes_no_more_and_hands_back(hand: Hand) -> None:
    owner = hand.open()
    hand.assign(owner)
    hand.aboard.stirred.clear()
    hand.aboard.drain()
    assert hand.aboard.stirred.is_set()
    hand.assign(owner, AttemptKey("gen_2", 1, 1))
    assert hand.begun == [KEY]
    hand.aboard.hand_back()
    assert hand.stopped == [KEY]
    told(owner)
    again = hand.open()
    again.queue.get_nowait()
    failed = again.queue.get_nowait()
    assert isinstance(failed, pb.WorkResponse)
    assert failed.failed.error.reason == "RUNNER_DRAINING"
    assert failed.failed.error.retryable
    assert not failed.failed.request_fault


async def test_idle_and_settled_are_waited_for(hand: Hand) -> None:
    await hand.aboard.settled()
    owner = hand.open()
    hand.assign(owner)
    idle, settled = asyncio.create_task(hand.aboard.idle()), asyncio.create_task(hand.aboard.settled())
    await asyncio.sleep(0)
    assert not idle.done()
    hand.complete()
    await idle
    assert not settled.done()
    hand.acknowledge(owner)
    await settled


async def test_an_owner_far_behind_misses_progress_but_no_outcome(hand: Hand) -> None:
    owner = hand.open()
    hand.assign(owner)
    for _ in range(2 * aboard.BEHIND_MAX):
        hand.aboard.tell(pb.WorkResponse(progress=pb.Progress()))
    hand.complete()
    kinds = told(owner)
    assert kinds.count("progress") < aboard.BEHIND_MAX
    assert kinds[-1] == "completed"


def test_a_runner_taken_for_dead_goes_on_as_another_with_nothing_aboard() -> None:
    hand = Hand()
    session = hand.open()
    hand.assign(session)
    hand.assign(session, AttemptKey("gen_2", 1, 1))
    hand.complete()
    told(session)
    hand.aboard.start_anew()
    assert hand.stopped == [AttemptKey("gen_2", 1, 1)]
    assert told(session) == [None]
    assert hand.aboard.runner_id != "run_1"
    assert told(hand.open()) == ["listing"]


async def test_a_runner_taken_for_dead_starts_anew(hand: Hand) -> None:
    owner = hand.open()
    done = AttemptKey("gen_2", 1, 1)
    hand.assign(owner)
    hand.assign(owner, done)
    hand.complete(done)
    told(owner)
    hand.aboard.start_anew()
    assert hand.stopped == [KEY]
    assert told(owner) == [None]
    assert hand.aboard.runner_id.startswith("run_0")
    hand.complete()
    assert told(hand.open()) == ["listing"]
