"""A worker of the simulated world: a program that trains toy parameters with the real outer loop."""

import io
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from muloco import failpoints
from muloco.outer import OuterLoop, QuorumPolicy, RunProgress, WorkerIdentity
from muloco.outer.loop.fragments import Schedule
from muloco.outer.protocol.outcome import Committed
from muloco.outer.protocol.peer_transport import PeerTransport
from muloco.runs.commits import CommitLog, Progress
from muloco.runs.states import State
from muloco.training.transfer import WorkerTransfer
from tests.simulation import toy
from tests.simulation.invariants import View
from tests.simulation.storage import SimulatedLog
from tests.simulation.wire import SimulatedClock, SimulatedWire
from tests.simulation.world import Process

if TYPE_CHECKING:
    from tests.simulation.run import Run

COMMITS, ASK_SECONDS = "commits", 2.0
"""See `muloco.training.trainer`."""


class SimulatedWorker:
    """One process of a worker.

    Args:
        run: of which.
        worker: its number.
        process: in which it runs.
    """

    def __init__(self, run: "Run", worker: int, process: Process):
        self._run, self._worker, self._process = run, worker, process
        self.step = 0
        self._position = 0
        shape, costs = run.shape, run.shape.costs
        self._flat, self._parameters = toy.parameters(toy.start())
        clock = SimulatedClock(process)
        wire = SimulatedWire(
            run.network,
            run.lighthouse,
            process,
            f"run_{worker:03d}",
            run.key,
            min_replica_size=1,
            quorum_seconds=costs.quorum_timeout,
            exchange_seconds=costs.exchange_timeout,
        )
        transport = PeerTransport(
            clock,
            wire,
            run.key,
            worker=worker,
            min_replica_size=1,
            device=torch.device("cpu"),
            quorum_seconds=costs.quorum_timeout,
            exchange_seconds=costs.exchange_timeout,
        )
        logs = [SimulatedLog(run.storage, process, other, f"m{other}") for other in range(shape.workers)]
        self._commits = CommitLog(logs[worker], attempt=run.attempt)
        progress = Progress(
            logs, worker=worker, attempt=run.attempt, ask=lambda: transport.inquire(COMMITS, ASK_SECONDS)
        )
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
                min_replica_size=1,
                straggler_timeout_seconds=costs.straggler_timeout,
                quorum_timeout_seconds=costs.quorum_timeout,
            ),
            progress=RunProgress(
                last_committed_step=lambda: max(run.storage.newest() or 0, progress.reached()),
                committed_without_me=progress.passed,
                record=self._commits.add,
            ),
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
        run.watch.all_of(worker, process, transport, self.loop)

    def train(self, saved: Any) -> None:
        """Trains from a saved state, or from the start, to the end of the run."""
        run, shape, loop = self._run, self._run.shape, self.loop
        self._view = run.ledger.begin(self._worker, self._process, None if saved is None else saved["view"])
        if saved is not None:
            self._load(saved)
        self._commits.begin(self.step)
        run.log(self._worker, self.step, "state", state=State.MEETING)
        loop.start(self.step)
        run.world.tell(self._process.name, f"begins after step {self.step}")
        while self.step < shape.steps and not loop.membership.stops:
            failpoints.hit("inner_step")
            self._clock.sleep(run.world.random.uniform(*shape.costs.step_seconds))
            self.step += 1
            last = self.step == shape.steps
            self._flat += torch.from_numpy(toy.drift(self._worker, self._position))
            run.ledger.inner_step(self._view, self.step, self._position, self._sends(last))
            self._position += 1
            step = self.step
            validates = last or loop.applies_after(step)
            self._validate(validates)
            for sync in loop.after_inner_step(step, last=last):
                members = ", ".join(f"{worker} ({weight} steps)" for worker, weight in sync.weights.items())
                run.world.tell(self._process.name, f"has applied a mean of workers {members} after step {step}")
                run.log(
                    self._worker,
                    step,
                    "sync",
                    fragment=sync.fragment,
                    participants=len(sync.weights),
                    digest="",
                    bytes_sent=sync.bytes_sent,
                    seconds_waited=sync.seconds_waited,
                )
            if shape.save_every and self.step == step and step % shape.save_every == 0 and step < shape.steps:
                self._save()
            self._validate(validates)
        if not loop.membership.stops:
            run.ledger.finishes(self._view, self._flat.numpy())
        loop.close()

    def joined(self, data_position: str | None) -> None:
        """See `StateTransfer.joined`."""
        self._position = int(data_position or 0)
        membership = self.loop.membership
        run = self._run
        run.world.tell(self._process.name, f"goes on from another worker's state of step {self.step}")
        run.log(self._worker, self.step, "join")
        run.ledger.joins(self._view, membership.commit_hash, self._position, *self._anchor(), run.world.now)

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
            run.ledger.commits_round(self._view, committed, *self._anchor(), run.world.now)
            commit(committed)

        start: Callable[..., None] = membership.start

        def offers_none(*args: Any, **named: Any) -> None:
            self._view.sends_after = None
            start(*args, **named)

        membership.commit, membership.start = reported, offers_none  # type: ignore[method-assign]

    def _anchor(self) -> tuple[Any, int]:
        tensors = {name: tensor for fragment in self.loop.fragments for name, tensor in fragment.anchor.items()}
        flat = torch.cat([tensors[name].flatten() for name in toy.SHAPES])
        return flat.numpy(), self.loop.anchor_digest()

    def _validate(self, validates: bool) -> None:
        failpoints.hit("validation")
        if validates and (seconds := self._run.shape.costs.validation_seconds):
            self._clock.sleep(seconds)

    def _save(self) -> None:
        """Writes this worker's part of a checkpoint."""
        run = self._run
        failpoints.hit("checkpoint")
        members, _ = self.loop.last_round()
        if self._worker not in members:  # it has joined since
            return
        snapshot = self.loop.snapshot(own=True)
        buffer = io.BytesIO()
        torch.save((snapshot.tensors, snapshot.residuals, self._flat), buffer)
        run.world.point("writes a checkpoint")
        state = {
            "step": self.step,
            "position": self._position,
            "snapshot": snapshot,
            "tensors": buffer.getvalue(),
            "view": run.ledger.saved(self._view),
        }
        run.storage.save(self.step, self._worker, state, members)

    def _load(self, saved: Any) -> None:
        tensors, residuals, flat = torch.load(io.BytesIO(saved["tensors"]), weights_only=True)
        self._flat.copy_(flat)
        self.step, self._position = saved["step"], saved["position"]
        self.loop.restore(replace(saved["snapshot"], tensors=tensors, residuals=residuals), own=True)
