"""A worker of the simulated world: a program that trains toy parameters with the real outer loop."""

import io
import zlib
from collections.abc import Callable, Collection
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from muloco import failpoints
from muloco.outer import OuterLoop, QuorumPolicy, RunProgress, TransportError, WorkerIdentity
from muloco.outer.loop.fragments import Schedule
from muloco.outer.protocol.outcome import Committed, Outcome
from muloco.outer.protocol.peer_transport import PeerTransport
from muloco.runs.commits import CommitLog, Progress
from muloco.runs.states import State
from muloco.training.transfer import WorkerTransfer
from tests.simulation import shares, toy
from tests.simulation.invariants import View
from tests.simulation.ranks import Ranks, machine
from tests.simulation.storage import SimulatedLog
from tests.simulation.wire import SimulatedClock, SimulatedWire
from tests.simulation.world import LATE_SECONDS

if TYPE_CHECKING:
    from tests.simulation.run import Run

COMMITS, ASK_SECONDS = "commits", 2.0
"""See `muloco.training.trainer`."""
NCCL_SECONDS = 300.0
"""Timeout of the collectives of inner steps."""
HASTE = 0.3
"""Share of the inner steps that take hardly any time, in runs that are hasty."""


class SimulatedWorker:
    """One process of a worker: one of its ranks.

    Args:
        run: of which.
        worker: its number.
        ranks: the ranks of this worker.
        rank: which of them it is.
    """

    def __init__(self, run: "Run", worker: int, ranks: Ranks, rank: int):
        self._run, self._worker, self._ranks, self._rank = run, worker, ranks, rank
        self._process = process = ranks.processes[rank]
        self._ledger = run.ledgers[rank]
        self.step = 0
        self.stop_requested = False
        self.spoiled: float | None = None
        """What the next inner step writes into a parameter, if it is NaN or Inf."""
        self._position = 0
        shape, costs = run.shape, run.shape.costs
        self._flat, self._parameters = toy.parameters(toy.start())
        clock = SimulatedClock(process, hasty=shape.hasty)
        wire = SimulatedWire(
            run.network,
            ranks,
            rank,
            f"run_{worker:03d}",
            run.key,
            min_replica_size=shape.least,
            quorum_seconds=costs.quorum_timeout,
            exchange_seconds=costs.exchange_timeout,
        )
        transport = PeerTransport(
            clock,
            wire,
            run.key,
            worker=worker,
            min_replica_size=shape.least,
            device=torch.device("cpu"),
            quorum_seconds=costs.quorum_timeout,
            exchange_seconds=costs.exchange_timeout,
        )
        logs = [SimulatedLog(run.storage, process, other, machine(other)) for other in range(shape.workers)]
        self._commits = CommitLog(logs[worker], attempt=run.attempt)
        progress = Progress(logs, attempt=run.attempt, ask=lambda: transport.inquire(COMMITS, ASK_SECONDS).values())
        known = RunProgress(last_committed_step=lambda: max(run.storage.newest() or 0, progress.reached()))
        if rank == 0:
            known = replace(known, committed_without_me=progress.passed, record=self._commits.add)
            transport.answer(COMMITS, self._commits.answer)
        self._clock, self.wire = clock, wire
        self._schedule = Schedule(sync_interval=shape.interval, fragments=shape.fragments, delay=shape.delay)
        self.loop = OuterLoop(
            self._parameters,
            lambda anchor: torch.optim.SGD(
                anchor.values(), lr=toy.LEARNING_RATE, momentum=toy.MOMENTUM, nesterov=True, foreach=False
            ),
            transport,
            identity=WorkerIdentity(run="run", worker=worker, workers=shape.workers),
            quorum=QuorumPolicy(
                min_replica_size=shape.least,
                straggler_timeout_seconds=costs.straggler_timeout,
                quorum_timeout_seconds=costs.quorum_timeout,
            ),
            progress=known,
            sync_interval=shape.interval,
            fragments=toy.FRAGMENTS[shape.fragments],
            delay=shape.delay,
            compression=shape.compression(),
            data_position=lambda: str(self._position),
            transfer=WorkerTransfer({}, trainer=self),
        )
        self.transport = transport
        self._view: View
        self._watch_commits()
        run.watches[rank].all_of(worker, process, transport, self.loop)
        run.guards[rank].all_of(worker, process, transport)
        ranks.watch(rank, transport, self.loop)
        shares.watch(worker, rank, transport)
        if shape.ranks == 1:  # of several ranks only the first one keeps a log
            run.knowledge.watch(worker, process, run.attempt, self.loop)

    def train(self, saved: Any) -> None:
        """Trains from a saved state, or from the start, to the end of the run. If too few others are found for a sync,
        its state is saved first."""
        try:
            self._train(saved)
        except TransportError:
            if self.loop.sync_alone(self.step, last=self.step == self._run.shape.steps):
                self._run.world.tell(self._process.name, f"has found too few others, and saves step {self.step}")
                self._save(alone=True)
            raise

    def _train(self, saved: Any) -> None:
        run, shape, loop = self._run, self._run.shape, self.loop
        self._view = self._ledger.begin(self._worker, self._process, None if saved is None else saved["view"])
        if saved is not None:
            self._load(saved)
        if self._rank == 0:
            self._commits.begin(self.step)
        self._log("state", state=State.MEETING)
        loop.membership.asks_to_stop = self._asked_to_stop()
        run.stops.begins(asks=loop.membership.asks_to_stop)
        loop.start(self.step)
        run.world.tell(self._process.name, f"begins after step {self.step}")
        while self.step < shape.steps and not loop.membership.stops:
            self._take_inner_step()
            last, step = self.step == shape.steps, self.step
            if loop.sends_after(step) and self._asked_to_stop():
                loop.membership.asks_to_stop = True
            run.stops.sends(run.attempt, self._worker, step, asks=loop.membership.asks_to_stop)
            validates = last or loop.applies_after(step)
            self._validate(validates)
            syncs = loop.after_inner_step(step, last=last)
            for sync in syncs:
                members = ", ".join(f"{worker} ({weight} steps)" for worker, weight in sync.weights.items())
                run.world.tell(self._process.name, f"has applied a mean of workers {members} after step {step}")
                self._log(
                    "sync",
                    step=step,
                    fragment=sync.fragment,
                    participants=len(sync.weights),
                    digest="",
                    bytes_sent=sync.bytes_sent,
                    seconds_waited=sync.seconds_waited,
                )
            if shape.shares and syncs and self.step == step:
                ends = last or loop.membership.stops  # those that are done do not wait for the others
                shares.share(loop, self._rank, all_come=lambda ends=ends: run.is_calm() and not ends)
            if shape.save_every and self.step == step and step % shape.save_every == 0 and step < shape.steps:
                self._save()
            self._validate(validates)
        if not loop.membership.stops:
            self._ledger.finishes(self._view, self._flat.numpy())
        elif loop.membership.members:
            saved = self._save()
            run.stops.stopped(self._worker, self._rank, self.step, loop.membership.commit_hash, saved)
        loop.close()

    def _take_inner_step(self) -> None:
        """Takes an inner step. The ranks of the worker take it together."""
        run, shape = self._run, self._run.shape
        failpoints.hit("inner_step")
        run.stops.takes_step(self._view)
        hasty = shape.hasty and run.world.random.random() < HASTE
        seconds = (
            run.world.random.uniform(0.0, LATE_SECONDS / 2)
            if hasty
            else run.world.random.uniform(*shape.costs.step_seconds)
        )
        self._clock.sleep(seconds)
        self._ranks.gather("an inner step", self._rank, self.step, NCCL_SECONDS)
        self.step += 1
        spoiled, self.spoiled = self.spoiled, None
        self._flat += torch.from_numpy(toy.drift(self._worker, self._position, self._rank, spoiled))
        sends = {fragment: self._bits([fragment]) for fragment in self._sends(self.step == shape.steps)}
        self._ledger.inner_step(self._view, self.step, self._position, sends, spoiled)
        self._position += 1

    def _asked_to_stop(self) -> bool:
        """Whether one of this worker's ranks is asked to stop."""
        return any(self._ranks.gather("a request to stop", self._rank, self.stop_requested, NCCL_SECONDS))

    def joined(self, data_position: str | None) -> None:
        """See `StateTransfer.joined`."""
        self._position = int(data_position or 0)
        membership = self.loop.membership
        run = self._run
        run.world.tell(self._process.name, f"goes on from another worker's state of step {self.step}")
        self._log("join")
        self._ledger.joins(self._view, membership.commit_hash, self._position, *self._anchor(), run.world.now)

    def remembered(self) -> tuple[int, ...]:
        """Returns of how many things this worker keeps: rounds, rounds that it was asked about, parts, tasks."""
        answers = self.transport.answers
        kept = answers._rounds, answers._given_up, answers._parts, self._process.tasks
        return tuple(map(len, kept))

    def _sends(self, last: bool) -> list[int]:
        """Returns which fragments are sent after this step, by the definition of the schedule."""
        if last:
            return list(range(self._run.shape.fragments))
        due = self._schedule.due_after(self.step + self._run.shape.delay)
        return [] if due is None else [due]

    def _watch_commits(self) -> None:
        """Reports each round that the loop commits, before another worker can take over its result."""
        membership = self.loop.membership
        commit: Callable[[Committed], None] = membership.commit

        def reported(committed: Committed) -> None:
            run = self._run
            run.world.here()
            self._ledger.commits_round(self._view, committed, *self._anchor(), run.world.now)
            self._view.node.lone = membership.transport is not self.transport
            run.stops.commits(self._view, run.attempt, committed)
            commit(committed)

        start: Callable[..., None] = membership.start

        def offers_none(*args: Any, **named: Any) -> None:
            self._ledger.offers_to_begin(self._view, self._bits())
            start(*args, **named)

        agree: Callable[..., Outcome] = membership.agree

        def offers(step: int, *args: Any, **named: Any) -> Outcome:
            self._ledger.offers(self._view, step)
            return agree(step, *args, **named)

        membership.commit, membership.start = reported, offers_none  # type: ignore[method-assign]
        membership.agree = offers  # type: ignore[method-assign]

    def _anchor(self) -> tuple[Any, int]:
        tensors = {name: tensor for fragment in self.loop.fragments for name, tensor in fragment.anchor.items()}
        flat = torch.cat([tensors[name].flatten() for name in toy.SHAPES])
        return flat.numpy(), self._bits()

    def _bits(self, fragments: Collection[int] = ()) -> int:
        """Returns a checksum of the anchor and the momentum of fragments; none given: of all."""
        checksum = 0
        for index, fragment in enumerate(self.loop.fragments):
            if index in fragments or not fragments:
                for tensors in fragment.global_tensors().values():
                    for tensor in tensors.values():
                        checksum = zlib.crc32(tensor.numpy().tobytes(), checksum)
        return checksum

    def _log(self, event: str, *, step: int | None = None, **values: Any) -> None:
        """Adds a line to the metrics of the worker, of its first rank."""
        if self._rank == 0:
            self._run.log(self._worker, self.step if step is None else step, event, **values)

    def _validate(self, validates: bool) -> None:
        failpoints.hit("validation")
        if validates and (seconds := self._run.shape.costs.validation_seconds):
            self._clock.sleep(seconds)

    def _save(self, *, alone: bool = False) -> bool:
        """Writes this worker's part of a checkpoint. Returns whether it has one: a worker that has just joined has
        none, nor has one whose parameters are not finite. Of several that save `alone`, the first one does."""
        run = self._run
        failpoints.hit("checkpoint")
        members, _ = self.loop.last_round()
        if self._worker not in members or not self._flat.isfinite().all():
            return False
        snapshot = self.loop.snapshot(own=True)
        buffer = io.BytesIO()
        torch.save((snapshot.tensors, snapshot.residuals, self._flat), buffer)
        run.world.point("writes a checkpoint")
        state = {
            "step": self.step,
            "position": self._position,
            "snapshot": snapshot,
            "tensors": buffer.getvalue(),
            "view": self._ledger.saved(self._view),
        }
        if alone and (run.storage.newest() or 0) >= self.step:
            return False
        parts = [(member, rank) for member in members for rank in range(run.shape.ranks)]
        run.storage.save(self.step, (self._worker, self._rank), state, parts)
        return True

    def _load(self, saved: Any) -> None:
        tensors, residuals, flat = torch.load(io.BytesIO(saved["tensors"]), weights_only=True)
        self._flat.copy_(flat)
        self.step, self._position = saved["step"], saved["position"]
        self.loop.restore(replace(saved["snapshot"], tensors=tensors, residuals=residuals), own=True)
