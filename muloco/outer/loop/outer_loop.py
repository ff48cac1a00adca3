"""The outer loop of one worker, which is called after each inner step and meets the other workers when a fragment is
due."""

import contextlib
import json
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import torch

from muloco.outer.codecs.channel import Channel
from muloco.outer.codecs.compression import Compression, layout_digest
from muloco.outer.in_process import InProcessGroup
from muloco.outer.loop.digest import digest
from muloco.outer.loop.fragment import FragmentState, Merging, OuterOptimizer, checksums
from muloco.outer.loop.fragments import Schedule, homes
from muloco.outer.loop.in_flight import Arrived, InFlight
from muloco.outer.loop.snapshot import Saved, Snapshot, Tensors
from muloco.outer.loop.sync import Sync
from muloco.outer.protocol.exchange import ring_bytes
from muloco.outer.protocol.membership import Membership
from muloco.outer.protocol.outcome import CatchUp, Committed, LeftBehind
from muloco.outer.protocol.quorum import QuorumPolicy, RunProgress, WorkerIdentity
from muloco.outer.protocol.terms import Setting, Terms
from muloco.outer.protocol.transport import Transport, TransportError

logger = logging.getLogger(__name__)


class StateTransfer(Protocol):
    """Lets a worker that was away take over the state of one that was not."""

    def pack(self, snapshot: Snapshot) -> bytes:
        """Returns all that a worker needs to go on from here: what the outer loop has, and what else there is, but not
        the position in the data."""
        ...

    def unpack(self, state: bytes) -> Saved:
        """Takes over what a packed state has besides that of the outer loop, which is returned."""
        ...

    def joined(self, data_position: str | None) -> None:
        """Called when everything has been taken over, with this worker's own position in its data; None: it has
        none."""
        ...


class OuterLoop:
    """DiLoCo's outer loop (arXiv 2311.08105) over one worker's parameters, in one fragment or streaming in several
    (arXiv 2501.18512).

    Args:
        parameters: this rank's parameters, by name, plain or DTensors; changed in place. All workers give the same
            names and shapes, and start from the same values.
        build_optimizer: makes the outer optimizer of a fragment from its anchor tensors, by name.
        transport: meets the other workers.
        identity: of this worker.
        quorum: how many workers have to meet, and how long they wait for each other; None: the defaults.
        progress: what is known of the run; None: nothing.
        sync_interval: H, inner steps between two outer steps of a fragment.
        fragments: names of the parameters of each; None: one fragment.
        buffers: this rank's buffers that training changes and workers average, by name, plain or DTensors of a floating
            dtype; changed in place. Each travels in the fragment of the parameters around it (`fragments.homes`), and
            becomes the mean of the workers, weighted as their pseudogradients are. All workers give the same names and
            shapes, and start from the same values. None: there are none.
        delay: tau, inner steps between sending a pseudogradient and applying the mean. Above 0 the exchange runs beside
            them; of what they change in that fragment only the fraction `alpha` is kept.
        alpha: fraction of the local parameters that is kept when the anchor is merged into them, in [0, 1].
        learning_rate: outer learning rate after an inner step; None: the optimizer's own.
        compression: how the pseudogradients travel; None: as they are.
        settings: config fields, by full name, that have to be the same on all workers. Workers with different values
            are refused, and so are workers with a different K, H or tau, or with different fragments.
        device: where anchor and outer state are kept; None: with the parameters.
        data_position: returns this worker's position in its shard of the data, as JSON.
        transfer: lets workers that were away join again; None: they cannot.
        merging: context in which the parameters of a fragment are written, given their names.

    Raises:
        ValueError: H, J and tau do not fit together, alpha is out of range, the fragments are not a partition, or a
            buffer has no floating dtype.
    """

    def __init__(
        self,
        parameters: Mapping[str, torch.Tensor],
        build_optimizer: OuterOptimizer,
        transport: Transport,
        *,
        identity: WorkerIdentity,
        quorum: QuorumPolicy | None = None,
        progress: RunProgress | None = None,
        sync_interval: int,
        fragments: Sequence[Sequence[str]] | None = None,
        buffers: Mapping[str, torch.Tensor] | None = None,
        delay: int = 0,
        alpha: float = 0.0,
        learning_rate: Callable[[int], float] | None = None,
        compression: Compression | None = None,
        settings: Mapping[str, Setting] | None = None,
        device: torch.device | None = None,
        data_position: Callable[[], str] = lambda: "",
        transfer: StateTransfer | None = None,
        merging: Merging = contextlib.nullcontext,
    ):
        names = [list(parameters)] if fragments is None else [list(fragment) for fragment in fragments]
        if sorted(name for fragment in names for name in fragment) != sorted(parameters):
            raise ValueError("the fragments must hold every parameter exactly once")
        if not 0 <= alpha <= 1:
            raise ValueError(f"alpha must be from 0 to 1; got {alpha}")
        self._schedule = Schedule(sync_interval=sync_interval, fragments=len(names), delay=delay)
        buffers = buffers or {}
        home = homes(names, buffers)
        self.fragments = [
            FragmentState(
                {name: parameters[name] for name in fragment},
                build_optimizer,
                buffers={name: buffer for name, buffer in buffers.items() if home[name] == index},
                compression=compression,
                device=device,
                merging=merging,
            )
            for index, fragment in enumerate(names)
        ]
        terms = Terms(
            workers=identity.workers,
            sync_interval=sync_interval,
            delay=delay,
            fragments=len(names),
            layout=layout_digest([(fragment.anchor, fragment.channel.layout) for fragment in self.fragments]),
            settings=tuple((settings or {}).items()),
        )
        self.membership = Membership(
            transport,
            identity=identity,
            quorum=quorum or QuorumPolicy(),
            progress=progress or RunProgress(),
            terms=terms,
            channel_of=self._channel,
            data_position=data_position,
            handover=None if transfer is None else _Handover(self, transfer),
        )
        self._transport = transport
        self._alpha = alpha
        self._learning_rate = learning_rate
        self._sent: InFlight | None = None
        self._synced = 0
        """The last inner step after which everything that was due is done."""

    def start(self, step: int) -> None:
        """Meets the other workers. To be called before the first inner step (or the first after `step`); see
        `Membership.start`."""
        self.membership.start(step, checksums(self.fragments))

    def after_inner_step(self, step: int, *, last: bool = False) -> list[Sync]:
        """Takes the syncs that are due after an inner step. To be called after every inner step, with its number from
        1. After the `last` one all fragments are synced, with the windows that they have, and the parameters are the
        anchor.

        Returns:
            what each sync did whose mean was applied after this step.

        Raises:
            TransportError: too few workers are left.
            AnchorMismatch, NonFinitePseudogradient: the run has gone wrong; the message names worker and fragment.
        """
        for fragment in self.fragments:
            fragment.window += 1
        return self._sync_after(step, last=last)

    def sync_alone(self, step: int, *, last: bool = False) -> bool:
        """Completes the syncs that are due after inner step `step` with this worker alone, so that its state can be
        saved. Call it if `after_inner_step`, or a later request for the mean of a fragment in flight, has raised
        TransportError because too few others were found. Afterwards this worker no longer takes part in rounds.

        Returns:
            whether it has done so. A worker that was left behind cannot, as its state is not that of the run.

        Raises:
            StateLost: the others have gone on without this worker.
        """
        if self._sent is None or not self._sent.failed:
            return False
        self.membership.part(InProcessGroup(1).transport(0, self._transport.device))
        self._sent.repeat()
        if self._synced != step:
            self._sync_after(step, last=last)
        return True

    def _sync_after(self, step: int, *, last: bool) -> list[Sync]:
        """Does the syncs that are due after an inner step, or those of them that are left."""
        syncs = []
        if self._sent is not None and (last or self._sent.due == step):
            syncs += self._apply(step, last=last)
        if last:
            for index, fragment in enumerate(self.fragments):
                if fragment.window:
                    self._send(step, index, due=step)
                    syncs += self._apply(step, last=True)
        elif (leaving := self._schedule.sent_after(step)) is not None and self.fragments[leaving].window:
            self._send(step, leaving, due=step + self._schedule.delay)
            if self._schedule.delay == 0:
                syncs += self._apply(step, last=False)
        self._synced = step
        return syncs

    def sends_after(self, step: int) -> bool:
        """Whether a fragment is sent to the other workers after inner step `step`."""
        return self._schedule.sent_after(step) is not None

    def applies_after(self, step: int) -> bool:
        """Whether a fragment's mean is applied after inner step `step`, which waits for it."""
        return self._schedule.due_after(step) is not None

    @property
    def parameters_are_anchor(self) -> bool:
        """Whether parameters and buffers hold the anchor, as after a sync of everything."""
        return not any(fragment.window or fragment.merged_with_local for fragment in self.fragments)

    def anchor_digest(self) -> int:
        """Returns a 64-bit checksum of this rank's part of the anchor, which an outer step that changes the anchor
        changes."""
        return int(digest(self._all_anchors()))

    @contextlib.contextmanager
    def anchor_weights(self) -> Iterator[None]:
        """Within the context parameters and buffers hold the anchor; the local values come back afterwards."""
        if self.parameters_are_anchor:
            yield
            return
        local = [{n: t.clone() for n, t in fragment.tensors.items()} for fragment in self.fragments]
        self._load([fragment.anchor for fragment in self.fragments])
        try:
            yield
        finally:
            self._load(local)

    def close(self) -> None:
        self.membership.finish()
        self._transport.close()

    def snapshot(self, *, own: bool) -> Snapshot:
        """Returns the state after the last inner step. Waits for a fragment in flight.

        Args:
            own: whether this worker is to go on from it; else another one, which needs nothing of earlier rounds.

        Raises:
            RuntimeError: the others have gone on without this worker, whose state is not that of the run.
        """
        position: dict[str, Any] = {
            "windows": [fragment.window for fragment in self.fragments],
            "outer_steps": [fragment.outer_steps for fragment in self.fragments],
            "membership": self.membership.state(),
        }
        if self._sent is not None:
            position["arrived"] = self._sent.to_json()
        return Snapshot(
            position=json.dumps(position),
            tensors=self._tensors(),
            residuals=self._residuals() if own else {},
            codecs=self._codec_states() if own else {},
        )

    def restore(self, saved: Saved, *, own: bool) -> None:
        """Goes on from a saved state.

        Args:
            saved: its tensors are written into those of this loop.
            own: whether it is this worker's own. A worker that goes on from another one's state begins new windows with
                the anchor, which parameters and buffers then hold, and without residuals and states of codecs.
        """
        position = json.loads(saved.position)
        self._sent = None
        if "arrived" in position:
            self._sent = InFlight.saved(
                position["arrived"], self.fragments, self._transport, delay=self._schedule.delay
            )
        saved.fill(self._tensors())
        self.membership.load_state(position["membership"])
        for index, fragment in enumerate(self.fragments):
            fragment.load_position(window=position["windows"][index], outer_steps=position["outer_steps"][index])
            if own:
                fragment.load_residuals(saved.residuals)
                if fragment.channel.stateful:
                    fragment.channel.load_codec_states(saved.codecs[index], self._transport.device)
            else:
                fragment.begin()

    def last_round(self) -> tuple[list[int], str]:
        """Returns the workers that took part in the last committed round (before the first one: all), and the commit
        hash with it, which is equal on all of them. Waits for a fragment in flight, whose round counts."""
        if self._sent is None:
            return self.membership.members, self.membership.commit_hash
        match self._sent.result().outcome:
            case Committed() as committed:
                return sorted(committed.weights), committed.commit_hash
            case CatchUp(committed=committed):
                return sorted(committed.weights), committed.commit_hash
            case LeftBehind():
                return [], self.membership.commit_hash

    def data_positions(self) -> dict[int, str]:
        """Returns each worker's position in its shard of the data as of the last committed round that it was in. Waits
        for a fragment in flight, whose round counts."""
        if self._sent is not None and isinstance(committed := self._sent.result().outcome, Committed):
            return self.membership.data_positions | committed.data_positions
        return self.membership.data_positions

    def _tensors(self) -> Tensors:
        """See `Snapshot.tensors`."""
        tensors = _by_kind(fragment.global_tensors() for fragment in self.fragments)
        if self._sent is not None:
            tensors["mean"] = self._sent.mean()
        return tensors

    def _residuals(self) -> Tensors:
        """See `Snapshot.residuals`."""
        return _by_kind(fragment.residuals(self._transport.device) for fragment in self.fragments)

    def _codec_states(self) -> dict[int, bytes]:
        """See `Snapshot.codecs`."""
        channels = enumerate(fragment.channel for fragment in self.fragments)
        return {index: channel.codec_states() for index, channel in channels if channel.stateful}

    def _send(self, step: int, index: int, *, due: int) -> None:
        """Starts the round of a fragment from the parameters as they are now."""
        self._sent = InFlight.send(self.fragments, index, self.membership, self._transport, step=step, due=due)

    def _apply(self, step: int, *, last: bool) -> list[Sync]:
        """Waits for the mean of the fragment in flight and takes its outer step; or, where this worker was left behind,
        takes over the state of one that was not."""
        assert self._sent is not None
        sent = self._sent
        started = self._transport.clock.now()
        try:
            arrived = sent.result()
        except RuntimeError as error:
            if not isinstance(error, TransportError):  # which `sync_alone` repeats
                self._sent = None
            raise
        self._sent = None
        match arrived.outcome:
            case Committed() as committed:
                return [self._outer_step(step, sent, arrived, committed, started=started, last=last)]
            case CatchUp() as catch_up:
                logger.warning("the others have gone on, this worker was left behind at step %d", step)
                if not self.membership.take_over(catch_up):
                    self._rejoin(step)
            case LeftBehind():
                logger.warning("the others have gone on, this worker was left behind at step %d", step)
                self._rejoin(step)
        return []

    def _rejoin(self, step: int) -> None:
        """Looks for the others, to take over the state of one of them."""
        self.membership.start(step, checksums(self.fragments), left_behind=True)

    def _outer_step(
        self, step: int, sent: InFlight, arrived: Arrived, committed: Committed, *, started: float, last: bool
    ) -> Sync:
        """Takes the outer step of a fragment, begins its next window, and tells the others what they have missed."""
        exchanged = self._transport.clock.now() - started
        fragment = sent.fragment
        assert committed.mean is not None
        fragment.step(committed.mean, lr=None if self._learning_rate is None else self._learning_rate(step))
        fragment.merge(0.0 if last else self._alpha)
        self.membership.commit(committed)
        return Sync(
            fragment=sent.index,
            weights=committed.weights,
            attempts=committed.attempts,
            bytes_sent=committed.bytes_sent,
            bytes_ring=round(ring_bytes(fragment.channel.layout, len(committed.weights))),
            seconds_waited=self._transport.clock.now() - started,
            seconds_hidden=max(0.0, sent.seconds - exchanged),
            digest=int(fragment.digest()),
            own_square=arrived.own_square,
            mean_square=arrived.mean_square,
            product=arrived.product,
        )

    def _channel(self, fragment: int) -> Channel:
        return self.fragments[fragment].channel

    def _load(self, values: Sequence[Mapping[str, torch.Tensor]]) -> None:
        for fragment, tensors in zip(self.fragments, values, strict=True):
            for name, tensor in fragment.tensors.items():
                tensor.copy_(tensors[name])

    def _all_anchors(self) -> Iterator[torch.Tensor]:
        for fragment in self.fragments:
            yield from fragment.anchor.values()


class _Handover:
    """The state of a worker with that of its outer loop, as `Membership` asks for it."""

    def __init__(self, loop: OuterLoop, transfer: StateTransfer):
        self._loop = loop
        self._transfer = transfer

    def pack(self) -> bytes:
        return self._transfer.pack(self._loop.snapshot(own=False))

    def unpack(self, state: bytes) -> None:
        self._loop.restore(self._transfer.unpack(state), own=False)
        self._transfer.joined(self._loop.data_positions().get(self._loop.membership.identity.worker))


def _by_kind(fragments: Iterable[Tensors]) -> Tensors:
    """Returns the tensors of all fragments together."""
    together: Tensors = {}
    for tensors in fragments:
        for kind, values in tensors.items():
            together.setdefault(kind, {}).update(values)
    return together
