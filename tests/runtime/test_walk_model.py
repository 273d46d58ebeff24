"""Every interleaving of a small model of `qcompiler.runtime.walk`, explored to the end.

The model has the steps that threads can see of each other, in the order of the compiled code: look at `claim`,
compare and swap, begin a chunk, end it, raise `done`, wait. What the code decides by clocks and hints (patience,
presence, crowding) may happen at any time here. Memory is sequentially consistent; the argument for weaker
orderings is in the module's documentation.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import pytest

Chunk = tuple[int, int, int]  # job, instruction, chunk


@dataclass(frozen=True)
class Thread:
    """Where one thread is: `step` of the walk in `job`, at `instruction`, looking at the `turn`-th slot."""

    me: int
    step: str
    job: int = -1
    instruction: int = 0
    turn: int = 0
    ticket: int = 0


@dataclass(frozen=True)
class State:
    """What all threads share, and the threads."""

    job: int
    claim: tuple[int, ...]
    done: tuple[int, ...]
    begun: frozenset[Chunk]
    ended: frozenset[Chunk]
    threads: tuple[Thread, ...]


@dataclass(frozen=True)
class Model:
    """`chunks[i][s]` chunks of instruction i belong to slot s; `jobs` calls; `threads` at most one in each slot.

    `flaw` names a part of the algorithm to leave out.
    """

    chunks: tuple[tuple[int, ...], ...]
    jobs: int
    threads: int
    flaw: str = ""

    def start(self) -> State:
        caller, helpers = Thread(0, "publish"), [Thread(me, "look") for me in range(1, self.threads)]
        zeros = (0,) * len(self.chunks[0])
        return State(-1, zeros, zeros, frozenset(), frozenset(), (caller, *helpers))

    def tickets(self, job: int, instruction: int, slot: int) -> tuple[int, int]:
        """First ticket, and the one after the last, of a slot in an instruction of a job."""
        per_job = sum(row[slot] for row in self.chunks)
        first = job * per_job + sum(row[slot] for row in self.chunks[:instruction])
        return first, first + self.chunks[instruction][slot]

    def all_of(self, job: int, instruction: int) -> set[Chunk]:
        return {(job, instruction, chunk) for chunk in range(sum(self.chunks[instruction]))}

    def successors(self, state: State) -> Iterator[State]:
        for index in range(len(state.threads)):
            yield from self.advance(state, index)

    def advance(self, state: State, index: int) -> Iterator[State]:
        """What one thread may do next."""
        thread = state.threads[index]

        def then(new: Thread, **shared: object) -> State:
            threads = (*state.threads[:index], new, *state.threads[index + 1 :])
            return replace(state, threads=threads, **shared)  # type: ignore[arg-type]

        match thread.step:
            case "publish":
                if state.job + 1 < self.jobs:
                    job = state.job + 1
                    yield then(Thread(0, "enter", job), job=job)
            case "look":
                if state.job != thread.job:
                    yield then(Thread(thread.me, "enter", state.job))
            case "enter":  # an instruction
                if thread.instruction == len(self.chunks):
                    if thread.me == 0:
                        assert state.ended >= set().union(
                            *(self.all_of(thread.job, i) for i in range(len(self.chunks)))
                        ), "the call is over before its work is"
                    yield then(Thread(thread.me, "look" if thread.me else "publish", thread.job))
                else:
                    yield then(replace(thread, step="claim", turn=0))
                    if thread.me != 0:  # another job, or crowded
                        yield then(Thread(thread.me, "look", thread.job))
            case "wait":
                yield from self.wait(state, thread, then)
            case _:
                yield from self.drain(state, thread, then)

    def wait(self, state: State, thread: Thread, then: Callable[..., State]) -> Iterator[State]:
        slot = (thread.me + thread.turn) % len(state.done)
        _, end = self.tickets(thread.job, thread.instruction, slot)
        skips = (self.flaw == "own slot" and thread.turn == 0) or (self.flaw == "others" and thread.turn != 0)
        if state.done[slot] >= end or skips:
            if thread.turn + 1 < len(state.done):
                yield then(replace(thread, turn=thread.turn + 1))
            else:
                yield then(replace(thread, step="enter", instruction=thread.instruction + 1, turn=0))
        else:
            yield then(replace(thread, step="claim"))  # absent, or out of patience

    def drain(self, state: State, thread: Thread, then: Callable[..., State]) -> Iterator[State]:
        slot = (thread.me + thread.turn) % len(state.done)
        first, end = self.tickets(thread.job, thread.instruction, slot)
        chunk = sum(self.chunks[thread.instruction][:slot]) + thread.ticket - first
        this = (thread.job, thread.instruction, chunk)
        match thread.step:
            case "claim":
                ticket = state.claim[slot]
                step = "swap" if ticket < end else "wait"
                yield then(replace(thread, step=step, ticket=ticket))
            case "swap":
                if state.claim[slot] == thread.ticket or self.flaw == "swap":
                    claim = raised(state.claim, slot, thread.ticket + 1)
                    yield then(replace(thread, step="begin"), claim=claim)
                else:
                    yield then(replace(thread, step="claim"))
            case "begin":
                assert this not in state.begun, "a chunk is run twice"
                if thread.instruction:
                    before = self.all_of(thread.job, thread.instruction - 1)
                else:
                    before = self.all_of(thread.job - 1, len(self.chunks) - 1) if thread.job else set()
                assert state.ended >= before, "a chunk is run before the instruction before it is done"
                step = "raise" if self.flaw == "order" else "end"
                yield then(replace(thread, step=step), begun=state.begun | {this})
            case "end":
                step = "claim" if self.flaw == "order" else "raise"
                yield then(replace(thread, step=step), ended=state.ended | {this})
            case "raise":
                step = "end" if self.flaw == "order" else "claim"
                done = raised(state.done, slot, state.done[slot] + 1)
                yield then(replace(thread, step=step), done=done)


def raised(counters: tuple[int, ...], slot: int, value: int) -> tuple[int, ...]:
    return (*counters[:slot], value, *counters[slot + 1 :])


def explore(model: Model) -> set[State]:
    """All reachable states; the assertions of the model are checked on the way."""
    seen = {model.start()}
    waiting = list(seen)
    while waiting:
        for state in model.successors(waiting.pop()):
            if state not in seen:
                seen.add(state)
                waiting.append(state)
    return seen


def caller_finishes_alone(model: Model, state: State) -> bool:
    """Whether, with all helpers stopped for good, the caller ends all jobs or waits for a chunk already begun."""
    for _ in range(10_000):
        if state.threads[0].step == "publish" and state.job == model.jobs - 1:
            return True
        (state,) = model.advance(state, 0)
        stopped_inside = any(t.step in ("begin", "end", "raise") for t in state.threads[1:])
        if state.threads[0].step == "wait" and stopped_inside:
            return True
    return False


SMALL = [
    Model(chunks=((1, 1), (1, 1)), jobs=2, threads=2),
    Model(chunks=((2, 1), (1, 0)), jobs=2, threads=2),
    Model(chunks=((1, 1, 1), (1, 0, 0)), jobs=1, threads=2),
    Model(chunks=((1, 1, 1),), jobs=1, threads=3),
]


@pytest.mark.parametrize("model", SMALL, ids=str)
def test_every_interleaving_is_right(model: Model):
    for state in explore(model):
        assert caller_finishes_alone(model, state)


@pytest.mark.parametrize("flaw", ["own slot", "others", "swap", "order"])
def test_the_model_notices(flaw: str):
    with pytest.raises(AssertionError, match=r"twice|before"):
        explore(replace(SMALL[0], flaw=flaw))
