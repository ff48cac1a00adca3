"""The outer loop of one worker: it is told of each inner step and meets the other workers when a fragment is due."""

import contextlib
import json
import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from muloco.outer.background import Pending
from muloco.outer.channel import Channel
from muloco.outer.compression import Compression
from muloco.outer.digest import digest
from muloco.outer.exchange import ring_bytes
from muloco.outer.fragment import FragmentState, Merging, OuterOptimizer
from muloco.outer.fragments import Schedule
from muloco.outer.in_process import InProcessGroup
from muloco.outer.membership import Crowd, Membership, StateTransfer
from muloco.outer.outgoing import Outgoing
from muloco.outer.terms import Setting, Terms, layout_of
from muloco.outer.transaction import Agreement, NonFinitePseudogradient
from muloco.outer.transport import Transport, TransportError

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Sync:
    """What one round did, seen by one rank."""

    fragment: int
    weights: dict[int, int]
    """Inner steps that each worker contributed, by worker: those who took part."""
    attempts: int
    """Rounds that it took; more than one where a worker was lost."""
    bytes_sent: int
    """By this rank, to other workers."""
    bytes_ring: float
    """What it would have sent in an fp32 ring all-reduce of the same tensors."""
    seconds_waited: float
    """That the inner steps stood still for it."""
    seconds_hidden: float
    """Part of the round that ran beside inner steps."""
    digest: int
    """64-bit checksum of this rank's part of the new anchor."""
    own_square: float
    """Sum of squares of this worker's pseudogradient, over this rank's part."""
    mean_square: float
    """The same of the mean over the workers."""
    product: float
    """Sum of products of the two."""


@dataclass(frozen=True, kw_only=True)
class _Arrived:
    """The outcome of a round, not applied yet."""

    agreement: Agreement
    own_square: float = 0.0
    mean_square: float = 0.0
    product: float = 0.0


@dataclass(kw_only=True)
class _Sent:
    """A fragment that is on its way."""

    fragment: int
    due: int
    """Inner step after which its mean is applied."""
    pending: Pending[_Arrived]


class OuterLoop:
    """DiLoCo's outer loop over one worker's parameters (PAPER 3.1), in one fragment or streaming in several (3.5).

    Args:
        parameters: this rank's parameters, by name, plain or DTensors; changed in place. All workers give the same
            names and shapes, and start from the same values.
        build_optimizer: makes the outer optimizer of a fragment from its anchor tensors, by name.
        transport: meets the other workers.
        crowd: who this worker is, and whom it waits for at the start.
        sync_interval: H, inner steps between two outer steps of a fragment.
        fragments: names of the parameters of each; None: one fragment.
        delay: tau, inner steps between sending a pseudogradient and applying the mean. Above 0 the exchange runs beside
            them; what they change in that fragment is lost but for the share `alpha`.
        alpha: share of the local parameters that is kept when the anchor is merged into them, in [0, 1].
        learning_rate: outer learning rate after an inner step; None: the optimizer's own.
        compression: how the pseudogradients travel; None: as they are.
        settings: config fields, by full name, that have to be the same on all workers. Workers with different values
            are refused, and so are workers with a different K, H or tau, or with different fragments.
        device: where anchor and outer state are kept; None: with the parameters.
        share: says where this worker is in its share of the data, as JSON.
        transfer: lets workers that were away join again; None: they cannot.
        merging: context in which the parameters of a fragment are written, given their names.

    Raises:
        ValueError: H, J and tau do not fit together, alpha is out of range, or the fragments are not a partition.
    """

    def __init__(
        self,
        parameters: Mapping[str, torch.Tensor],
        build_optimizer: OuterOptimizer,
        transport: Transport,
        *,
        crowd: Crowd,
        sync_interval: int,
        fragments: Sequence[Sequence[str]] | None = None,
        delay: int = 0,
        alpha: float = 0.0,
        learning_rate: Callable[[int], float] | None = None,
        compression: Compression | None = None,
        settings: Mapping[str, Setting] | None = None,
        device: torch.device | None = None,
        share: Callable[[], str] = lambda: "",
        transfer: StateTransfer | None = None,
        merging: Merging = contextlib.nullcontext,
    ):
        names = [list(parameters)] if fragments is None else [list(fragment) for fragment in fragments]
        if sorted(name for fragment in names for name in fragment) != sorted(parameters):
            raise ValueError("the fragments must hold every parameter exactly once")
        if not 0 <= alpha <= 1:
            raise ValueError(f"alpha must be from 0 to 1; got {alpha}")
        self._schedule = Schedule(sync_interval=sync_interval, fragments=len(names), delay=delay)
        self.fragments = [
            FragmentState(
                {name: parameters[name] for name in fragment},
                build_optimizer,
                compression=compression,
                device=device,
                merging=merging,
            )
            for fragment in names
        ]
        terms = Terms(
            workers=crowd.workers,
            sync_interval=sync_interval,
            delay=delay,
            fragments=len(names),
            layout=layout_of([(fragment.anchor, fragment.channel.wire) for fragment in self.fragments]),
            settings=tuple((settings or {}).items()),
        )
        self.membership = Membership(
            transport, crowd, terms=terms, channel_of=self._channel, share=share, transfer=transfer
        )
        self._transport = transport
        self._alpha = alpha
        self._learning_rate = learning_rate
        self._sent: _Sent | None = None
        self._synced = 0
        """The last inner step after which everything that was due is done."""

    def start(self, step: int) -> None:
        """To be called before the first inner step (or the first after `step`); see `Membership.start`."""
        self.membership.start(step, digest(self._all_anchors()))

    def after_inner_step(self, step: int, *, last: bool = False) -> list[Sync]:
        """To be called after every inner step, with its number from 1. After the `last` one all fragments are synced,
        with the windows that they have, and the parameters are the anchor.

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
        if self._sent is None or not self._sent.pending.failed:
            return False
        self.membership.part(InProcessGroup(1).transport(0, self._transport.device))
        self._sent.pending = self._sent.pending.again()
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
        """Whether a fragment leaves for the other workers after inner step `step`."""
        return self._schedule.sent_after(step) is not None

    def applies_after(self, step: int) -> bool:
        """Whether a fragment's mean is applied after inner step `step`, which waits for it."""
        return self._schedule.due_after(step) is not None

    @property
    def parameters_are_anchor(self) -> bool:
        """Whether the parameters hold the anchor, as after a sync of everything."""
        return not any(fragment.window or fragment.merged_with_local for fragment in self.fragments)

    def anchor_digest(self) -> int:
        """Returns a 64-bit checksum of this rank's part of the anchor, which an outer step that changes the anchor
        changes."""
        return int(digest(self._all_anchors()))

    @contextlib.contextmanager
    def anchor_weights(self) -> Iterator[None]:
        """Within the context the parameters hold the anchor; the local values come back afterwards."""
        if self.parameters_are_anchor:
            yield
            return
        local = [{n: t.clone() for n, t in fragment.parameters.items()} for fragment in self.fragments]
        self._load([fragment.anchor for fragment in self.fragments])
        try:
            yield
        finally:
            self._load(local)

    def close(self) -> None:
        self._transport.close()

    def state_dict(self) -> dict[str, str | bytes]:
        """Where this worker is in its windows, as JSON, and the states of its codecs, where they keep any. Waits for a
        fragment in flight, whose mean `global_tensors` then holds."""
        position: dict[str, Any] = {
            "windows": [fragment.window for fragment in self.fragments],
            "outer_steps": [fragment.outer_steps for fragment in self.fragments],
            "membership": self.membership.state(),
        }
        if self._sent is not None:
            arrived = self._sent.pending.result()
            agreement = {**vars(arrived.agreement), "mean": None, "behind": [], "donates": False, "leaving": False}
            for table in ("weights", "shares"):
                agreement[table] = list(agreement[table].items())
            position["arrived"] = {**vars(arrived), "agreement": agreement}
        channels = {f"codecs_{index}": fragment.channel for index, fragment in enumerate(self.fragments)}
        states = {name: channel.codec_states() for name, channel in channels.items() if channel.stateful}
        return {"position": json.dumps(position), **states}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """After `prepare_to_load`, and after its tensors have been written into `global_tensors`."""
        position = json.loads(state["position"])
        for fragment, window, outer_steps in zip(
            self.fragments, position["windows"], position["outer_steps"], strict=True
        ):
            fragment.load_position(window=window, outer_steps=outer_steps)
        for index, fragment in enumerate(self.fragments):
            if fragment.channel.stateful:
                fragment.channel.load_codec_states(state[f"codecs_{index}"], self._transport.device)
        self.membership.load_state(position["membership"])
        if self._sent is not None:
            arrived = position["arrived"]
            agreement = arrived["agreement"]
            for table in ("weights", "shares"):
                agreement[table] = dict(agreement[table])
            agreement["mean"] = self._sent.pending.result().agreement.mean
            self._sent.pending = Pending.of(_Arrived(**{**arrived, "agreement": Agreement(**agreement)}))

    def begin_windows(self) -> None:
        """The parameters are the anchor from here on."""
        for fragment in self.fragments:
            fragment.merge()
            fragment.channel.clear()

    def last_round(self) -> tuple[list[int], str]:
        """The workers that took part in the last committed round (before the first one: all), and the history with it,
        which is equal on all of them. Waits for a fragment in flight, whose round counts."""
        if self._sent is not None:
            agreement = self._sent.pending.result().agreement
            return sorted(agreement.weights), agreement.history
        return self.membership.members, self.membership.history

    def prepare_to_load(self, step: int, *, in_flight: bool) -> None:
        """Makes room for the state that was saved after inner step `step`: with or without the mean of a fragment."""
        self._sent = None
        if not in_flight:
            return
        delay = self._schedule.delay
        index, due = next(
            (index, sent + delay)
            for sent in range(max(1, step - delay + 1), step + 1)
            if (index := self._schedule.sent_after(sent)) is not None
        )
        elements = sum(tensor.numel() for tensor in self.fragments[index].anchor.values())
        mean = torch.empty(elements, device=self._transport.device)
        nothing = _Arrived(agreement=_empty_agreement(mean))
        self._sent = _Sent(fragment=index, due=due, pending=Pending.of(nothing))

    def global_tensors(self) -> dict[str, dict[str, torch.Tensor]]:
        """The state that all workers share, by kind and parameter name: the anchor, each buffer of the outer optimizer
        and the mean of a fragment in flight, for which this waits. The tensors are the loop's own, so that writing into
        them restores it."""
        tensors: dict[str, dict[str, torch.Tensor]] = {}
        for fragment in self.fragments:
            for kind, values in fragment.global_tensors().items():
                tensors.setdefault(kind, {}).update(values)
        if self._sent is not None:
            mean = self._sent.pending.result().agreement.mean
            assert mean is not None
            tensors["mean"] = self.fragments[self._sent.fragment].views(mean)
        return tensors

    def residuals(self) -> dict[str, dict[str, torch.Tensor]]:
        """What compression has left on this rank, by kind and parameter name: copies. Waits for what is in flight."""
        if self._sent is not None:
            self._sent.pending.result()
        tensors: dict[str, dict[str, torch.Tensor]] = {}
        for fragment in self.fragments:
            for kind, values in fragment.residuals(self._transport.device).items():
                tensors.setdefault(kind, {}).update(values)
        return tensors

    def load_residuals(self, tensors: Mapping[str, Mapping[str, torch.Tensor]]) -> None:
        """Continues with what `residuals` gave."""
        for fragment in self.fragments:
            fragment.load_residuals(tensors)

    def _send(self, step: int, index: int, *, due: int) -> None:
        """Starts the round of a fragment from the parameters as they are now."""
        fragment = self.fragments[index]
        own = Outgoing(fragment, inner_steps_go_on=due > step)
        weight, checksum = fragment.window, fragment.digest()

        def work() -> _Arrived:
            own_square = own.square
            try:
                agreement = self.membership.agree(step, index, own, weight=weight, checksum=checksum)
            except NonFinitePseudogradient as error:
                bad = own.not_finite()
                where = f"; on worker {self.membership.crowd.worker} in {', '.join(bad)}" if bad else ""
                raise NonFinitePseudogradient(f"{error}{where}") from None
            mean_square = self._square_of_mean(agreement)
            if agreement.donor is not None:
                return _Arrived(agreement=agreement)
            assert agreement.mean is not None
            return _Arrived(
                agreement=agreement,
                own_square=own_square,
                mean_square=mean_square,
                product=own.product(agreement.mean),
            )

        concurrent = self._transport.concurrent and due > step
        pending = Pending(work, concurrent=concurrent, device=self._transport.device)
        self._sent = _Sent(fragment=index, due=due, pending=pending)

    def _square_of_mean(self, agreement: Agreement) -> float:
        """This rank's share of the sum of squares of a mean that has arrived, see `FragmentState.product`; 0 if none
        has.

        Raises:
            NonFinitePseudogradient: the mean holds NaN or Inf. All members have the same mean.
        """
        if agreement.mean is None:
            return 0.0
        fragment = self.fragments[agreement.fragment]
        square = fragment.product(agreement.mean, agreement.mean)
        if not math.isfinite(square):  # the mean may be finite, and only the sum of squares too large
            views = fragment.views(agreement.mean).items()
            if bad := [name for name, part in views if not torch.isfinite(part).all()]:
                raise NonFinitePseudogradient(
                    f"sync after step {agreement.step}: NaN or Inf in the mean of fragment {agreement.fragment} over "
                    f"workers {sorted(agreement.weights)}, in {', '.join(bad)}, although each of them has sent a "
                    "finite pseudogradient: the values are too large for their sum or for compression.kind"
                )
        return square

    def _apply(self, step: int, *, last: bool) -> list[Sync]:
        """Waits for the mean of the fragment in flight and takes its outer step; or, where this worker was left behind,
        takes over the state of one that was not."""
        assert self._sent is not None
        sent = self._sent
        fragment = self.fragments[sent.fragment]
        started = time.perf_counter()
        try:
            arrived = sent.pending.result()
        except RuntimeError as error:
            if not isinstance(error, TransportError):  # which `sync_alone` repeats
                self._sent = None
            raise
        self._sent = None
        agreement = arrived.agreement
        if agreement.donor is not None:
            logger.warning("the others have gone on, this worker was left behind at step %d", step)
            if not self.membership.take_over(agreement):
                self.membership.start(step, digest(self._all_anchors()), left_behind=True)
            return []
        exchanged = time.perf_counter() - started
        assert agreement.mean is not None
        fragment.step(agreement.mean, lr=None if self._learning_rate is None else self._learning_rate(step))
        fragment.merge(0.0 if last else self._alpha)
        self.membership.commit(agreement)
        return [
            Sync(
                fragment=sent.fragment,
                weights=agreement.weights,
                attempts=agreement.attempts,
                bytes_sent=agreement.bytes_sent,
                bytes_ring=ring_bytes(fragment.channel.wire, len(agreement.weights)),
                seconds_waited=time.perf_counter() - started,
                seconds_hidden=max(0.0, sent.pending.seconds - exchanged),
                digest=int(fragment.digest()),
                own_square=arrived.own_square,
                mean_square=arrived.mean_square,
                product=arrived.product,
            )
        ]

    def _channel(self, fragment: int) -> Channel:
        return self.fragments[fragment].channel

    def _load(self, values: Sequence[Mapping[str, torch.Tensor]]) -> None:
        for fragment, tensors in zip(self.fragments, values, strict=True):
            for name, tensor in fragment.parameters.items():
                tensor.copy_(tensors[name])

    def _all_anchors(self) -> Iterator[torch.Tensor]:
        for fragment in self.fragments:
            yield from fragment.anchor.values()


def _empty_agreement(mean: torch.Tensor) -> Agreement:
    """Room for one that is loaded."""
    return Agreement(
        step=0,
        fragment=0,
        mean=mean,
        weights={},
        shares={},
        behind=(),
        donor=None,
        donates=False,
        name="",
        history="",
        bytes_sent=0,
        attempts=0,
    )
