"""What must hold in every run, by a model that is written from the definition of DiLoCo's outer loop.

The model knows of each worker what its windows hold, since it adds up their inner steps itself, and of each state of
the run (a node: the rounds that have been committed, in order) what the anchor is, in fp64. Each report of a worker is
compared with it.
"""

from collections.abc import Mapping, Set
from dataclasses import dataclass, field, replace
from typing import Any

import numpy

from tests.simulation.leaders import check_leaders
from tests.simulation.toy import LEARNING_RATE, MOMENTUM, Shape, drift, fragment_places, start
from tests.simulation.world import Process, Violation

TOLERANCE = 1e-4
"""Largest difference between an anchor in fp32 and the model's. A window that is counted wrongly makes a larger one."""

NEXT_COMMIT_SECONDS = 60.0
"""Longest time from the end of all faults, or from a commit, to the next one."""


LONGEST_ABSENCE_SECONDS = 25.0
"""Longest time from the end of all faults during which the others go on without a worker that lives."""


@dataclass(eq=False)
class Node:
    """A state of the run."""

    attempt: int
    depth: int
    parent: "Node | None"
    step: int
    """Inner step after which the fragment was sent."""
    fragment: int | None
    weights: Mapping[int, int]
    anchor: numpy.ndarray
    momentum: numpy.ndarray
    bases: tuple[int, ...]
    """For each fragment the depth of the round that moved it last."""
    taken: Mapping[tuple[int, int], int]
    """For each worker and fragment the position in the data up to which its windows have been counted."""
    met: frozenset[Process]
    """The processes that were in the round, members that were behind included."""
    time: float = 0.0
    """When a worker has committed it first."""
    bits: int | None = None
    """Checksum of anchor and momentum."""
    lone: bool = False
    """Whether a worker that found no others has made it, to save its state: the run has not come to it."""
    corrupt: bool = False
    """Whether a worker with flipped bits has committed it, and may have handed them on."""

    @property
    def rounds(self) -> int:
        """Number of rounds that have moved the anchor."""
        if self.parent is None:
            return 0
        return self.parent.rounds + (self.fragment is not None)

    @property
    def last_round(self) -> "Node":
        """The state after the last round that has moved the anchor: meeting before the first step moves nothing."""
        node = self
        while node.parent is not None and node.fragment is None:
            node = node.parent
        return node

    def is_ancestor_of(self, other: "Node | None") -> bool:
        """Whether the other state follows from this one, or is this one."""
        while other is not None and other.depth > self.depth:
            other = other.parent
        return other is self

    def follows_a_lone_round_since(self, other: "Node") -> bool:
        """Whether a worker that had found too few others has committed a round alone, on the way to this state from
        the last one that it has in common with the other state."""
        node: Node | None = self
        while node is not None and not node.is_ancestor_of(other):
            if node.lone:
                return True
            node = node.parent
        return False


@dataclass
class Window:
    """What a worker's window of a fragment holds."""

    total: numpy.ndarray
    steps: int = 0
    begin: int = 0
    """Position in the data at which it begins."""
    end: int = 0


@dataclass(frozen=True)
class Sent:
    """A window that a worker has sent."""

    window: Window
    node: Node
    view: "View"
    bits: int
    """Checksum of the worker's anchor and momentum of the fragment at that time."""


@dataclass(eq=False)
class View:
    """What one process of a worker holds, as far as the model knows."""

    worker: int
    process: Process | None
    node: Node
    windows: list[Window]
    started: bool = False
    joined: bool = False
    """Whether it has taken over its state from another worker, and has been in no round since."""
    done: bool = False
    sends_after: int | None = None
    """The step of the round in which it offers a window; None: it offers none."""
    opened: float = 0.0
    """When it has last met others for a round, or begun to meet them."""
    took_part: float = 0.0
    """When it has begun, or was last known to the others."""
    bits: int = 0
    """Checksum of anchor and momentum when it has last offered to begin."""
    corrupt: bool = False
    """Whether bits of its anchor or momentum were flipped, or of those that it has taken over."""

    def copy(self, process: Process | None) -> "View":
        windows = [replace(window, total=window.total.copy()) for window in self.windows]
        return replace(self, process=process, windows=windows, started=False, done=False, sends_after=None)


@dataclass
class Ledger:
    """The model of a run.

    Args:
        shape: of the run.
    """

    shape: Shape
    rank: int = 0
    """Which rank of the workers it is about: the same rank of all of them has a state of its own."""
    attempt: int = 1
    disturbed: float = -1.0
    """Time until which workers may not hear each other, so that one may go on without the others for one round."""
    unmet: float = -1.0
    """Time until which the lighthouse may answer some workers and not others, so that rounds may fail by timeouts."""
    torn: bool = False
    """Whether a round was committed by some of its members and given up by others, which had lost contact in the
    vote."""
    harmed: float = -1000.0
    """Time until which faults last that may end a process; strangers must not."""
    held_up: bool = False
    """Whether a stranger has stood still, perhaps as a member of a group."""
    flipped: bool = False
    """Whether a bit of an anchor or a momentum was flipped."""
    forgetful: bool = False
    """Whether storage may have lost or hidden what was committed."""
    views: list[View] = field(default_factory=list)
    nodes: dict[str, Node] = field(default_factory=dict)
    """By the commit hash of the workers."""
    sent: dict[tuple[int, int, int, int], list[Sent]] = field(default_factory=dict)
    """By attempt, worker, step and fragment."""
    rounds: dict[str, set[Process]] = field(default_factory=dict)
    """The processes that have opened each round, by its name."""
    commits: int = 0
    quiet: float = 0.0
    """Time from which on no fault lasts; or of the last commit, if this is later."""
    longest: float = 0.0
    """Longest time until the next commit, while no fault lasted."""
    healed: float = 0.0
    """Time from which on no fault lasts."""

    def __post_init__(self) -> None:
        zero = start().astype(numpy.float64)
        bases = (0,) * self.shape.fragments
        self.root = Node(0, 0, None, 0, None, {}, zero, numpy.zeros_like(zero), bases, {}, frozenset())

    def begin(self, worker: int, process: Process, saved: View | None) -> View:
        """A process of a worker begins, from a checkpoint or afresh."""
        if saved is None:
            view = View(worker, process, self.root, [])
            self._new_windows(view, 0)
        else:
            view = saved.copy(process)
        self.views = [v for v in self.views if v.process is not None and v.process.alive]
        self.views.append(view)
        view.took_part = process.world.now
        return view

    def heeds(self, other: "Ledger") -> None:
        """Takes over from the ledger of another rank what faults excuse."""
        self.attempt, self.forgetful = other.attempt, other.forgetful
        self.disturbed, self.unmet, self.healed = other.disturbed, other.unmet, other.healed
        self.torn |= other.torn
        self.quiet = max(self.quiet, other.quiet)

    def inner_step(
        self, view: View, step: int, position: int, sends: Mapping[int, int], spoiled: float | None = None
    ) -> None:
        """A worker takes an inner step with the data at a position, and then sends fragments, each with the checksum of
        its anchor and momentum."""
        change = drift(view.worker, position, self.rank, spoiled)
        for window, place in zip(view.windows, fragment_places(self.shape.fragments), strict=True):
            window.total += change[place]
            window.steps += 1
            window.end = position + 1
        for fragment, bits in sends.items():
            window = view.windows[fragment]
            kept = Sent(replace(window, total=window.total.copy()), view.node, view, bits)
            self.sent.setdefault((self.attempt, view.worker, step, fragment), []).append(kept)

    def offers_to_begin(self, view: View, bits: int) -> None:
        """A worker meets the others before its first step, with the checksum of its anchor and momentum."""
        view.sends_after, view.bits = None, bits

    def joins(self, view: View, commit_hash: str, position: int, anchor: numpy.ndarray, bits: int, now: float) -> None:
        """A worker has taken over the state of another one."""
        node = self.nodes.get(commit_hash)
        if node is None:
            raise Violation(f"worker {view.worker} has taken over a state that no worker had")
        view.corrupt = node.corrupt and node.bits != bits
        self._compare(view, node, anchor, bits)
        if now > self.disturbed:
            self._check_missed(view, node)
            if view.started and not node.follows_a_lone_round_since(view.node):
                raise Violation(f"worker {view.worker} lives and hears the others, and has lost its window")
        view.node, view.started, view.joined, view.sends_after = node, True, True, None
        self._new_windows(view, position)

    def commits_round(self, view: View, committed: Any, anchor: numpy.ndarray, bits: int, now: float) -> None:
        """A worker has committed a round, and its anchor has moved.

        Args:
            view: of the worker.
            committed: `muloco.outer.protocol.outcome.Committed`.
            anchor: fp32, all of it.
            bits: checksum of anchor and momentum.
            now: the time.
        """
        node = self.nodes.get(committed.commit_hash)
        created = node is None
        if node is None:
            assert view.process is not None
            met = self.rounds.get(committed.name, {view.process})  # that of a worker that is alone nobody opens
            check_leaders(self.shape, [v for v in self.views if v.process in met], committed)
            node = self._child(view, committed, met, now)
            self.nodes[committed.commit_hash] = node
            self.commits += 1
            self._check_absent(committed, now)
        elif node.parent is None or node.parent.last_round is not view.node.last_round:
            raise Violation(f"worker {view.worker} has applied the round after step {node.step} to another anchor")
        elif dict(node.weights) != committed.weights:
            raise Violation(f"the members of a round disagree on its weights: {node.weights}, {committed.weights}")
        # a round that was in flight when it joined; that of a worker that was alone nobody may have applied yet
        taken_over = view.joined and (not created or len(committed.weights) == 1)
        if committed.fragment is not None and view.worker not in committed.weights and not taken_over:
            raise Violation(f"worker {view.worker} has applied a round without being a leader of it")
        self._compare(view, node, anchor, bits)
        view.node, view.started, view.joined = node, True, False
        self.waits(now)
        self.quiet = max(self.quiet, now)
        if committed.fragment is not None:
            self._new_window(view, committed.fragment, view.windows[committed.fragment].end)
        self._check_forks(view, now)

    def waits(self, now: float) -> None:
        """Workers wait for the next commit until now."""
        self.longest = max(self.longest, now - self.quiet)
        if self.longest > NEXT_COMMIT_SECONDS:
            raise Violation(f"after the last fault had passed, the next commit took {self.longest:.0f} s")

    def offers(self, view: View, step: int) -> None:
        """A worker begins the round of a window that it has sent after a step."""
        view.sends_after = step

    def meets(self, name: str, process: Process) -> None:
        """A process has opened a round."""
        self.rounds.setdefault(name, set()).add(process)

    def view_of(self, process: Process) -> View | None:
        """Returns the view of a process, if it has begun."""
        return next((view for view in self.views if view.process is process), None)

    def opens(self, process: Process, now: float) -> None:
        """A process begins to meet the others for a round, or has met them."""
        for view in self.views:
            if view.process is process:
                view.opened = now

    def saved(self, view: View) -> View:
        """Returns what a checkpoint keeps of the model."""
        return view.copy(None)

    def finishes(self, view: View, parameters: numpy.ndarray) -> None:
        """A worker has taken its last step."""
        view.done = True
        if view.corrupt:
            return
        if not numpy.allclose(parameters, view.node.anchor, atol=TOLERANCE) and not self.shape.compressed:
            raise Violation(f"worker {view.worker} does not end with the anchor")

    def is_lost(self, now: float) -> None:
        """A worker says that nobody holds the newest state of the run."""
        nodes = [node for node in self.nodes.values() if node.attempt == self.attempt and node.fragment is not None]
        newest = max((node.rounds for node in nodes), default=0)
        holders = [v.worker for v in self.views if self.lives(v) and v.started and v.node.rounds >= newest]
        if holders and now > self.disturbed:
            raise Violation(f"the run was given up, but worker {holders[0]} holds its newest state and lives")

    def _child(self, view: View, committed: Any, met: Set[Process], now: float) -> Node:
        """Returns the state after a round, computed from the windows of its members."""
        parent = view.node
        anchor, momentum = parent.anchor, parent.momentum
        bases, taken, held = parent.bases, dict(parent.taken), set[int]()
        if (fragment := committed.fragment) is not None:
            place = fragment_places(self.shape.fragments)[fragment]
            total = sum(committed.weights.values())
            mean = numpy.zeros(len(place))
            for worker, weight in committed.weights.items():
                sent = self._sent(worker, committed, met, parent, weight)
                window = sent.window
                held.add(sent.bits)
                if not numpy.isfinite(window.total).all():
                    raise Violation(f"the round after step {committed.step} counts NaN or Inf of worker {worker}")
                mean -= weight / total * window.total
                self._check_data(worker, fragment, window, taken)
                taken[worker, fragment] = window.end
            anchor, momentum = anchor.copy(), momentum.copy()
            momentum[place] = MOMENTUM * momentum[place] + mean
            anchor[place] -= LEARNING_RATE * (mean + MOMENTUM * momentum[place])
            bases = tuple(parent.depth + 1 if index == fragment else base for index, base in enumerate(bases))
            if not self.forgetful:
                self._check_newest(view, committed)
        else:
            held = {v.bits for v in self.views if v.process in met and v.worker in committed.weights}
        if len(held) > 1:
            raise Violation(f"workers {sorted(committed.weights)} lead a round with different anchors or momentums")
        return Node(
            self.attempt,
            parent.depth + 1,
            parent,
            committed.step,
            fragment,
            committed.weights,
            anchor,
            momentum,
            bases,
            taken,
            frozenset(met),
            now,
        )

    def _sent(self, worker: int, committed: Any, met: Set[Process], parent: Node, weight: int) -> Sent:
        fragment, step = committed.fragment, committed.step
        sent = self.sent.get((self.attempt, worker, step, fragment), [])
        if len({one.view.process for one in sent} & met) > 1:
            raise Violation(f"two processes of worker {worker} lead the round after step {step}")
        found = []
        for attempt in range(self.attempt, 0, -1):  # a checkpoint of an earlier one may hold a round in flight
            for one in reversed(self.sent.get((attempt, worker, step, fragment), [])):
                same = attempt == self.attempt or one.node.is_ancestor_of(parent)
                if same and one.node.bases[fragment] == parent.bases[fragment] and one.window.steps == weight:
                    if one.view.process in met:
                        return one
                    if not self.lives(one.view):  # it may have left a checkpoint with a round in flight
                        found.append(one)
        if found:
            return found[0]
        held = [(one.node.bases[fragment], one.window.steps) for one in sent]
        raise Violation(
            f"the round of fragment {fragment} after step {step} counts a window of {weight} steps of worker {worker} "
            f"on the anchor of round {parent.bases[fragment]}; it has sent (anchor, steps): {held}"
        )

    def _check_data(self, worker: int, fragment: int, window: Window, taken: Mapping[tuple[int, int], int]) -> None:
        before = taken.get((worker, fragment), 0)
        if window.begin < before:
            raise Violation(f"worker {worker} counts its data from {window.begin} on twice (up to {before})")
        exact = self.shape.fragments == 1 and self.shape.delay == 0
        if exact and window.begin > before:
            raise Violation(f"worker {worker} has skipped its data from {before} to {window.begin}")

    def _check_newest(self, view: View, committed: Any) -> None:
        """The leaders of a round must not have missed one that was committed before they opened it."""
        for node in self.nodes.values():
            if node.attempt != self.attempt or node.fragment is None or node.time >= view.opened or node.lone:
                continue
            same = (node.step, node.fragment) == (committed.step, committed.fragment)
            passed = node.step > committed.step or (same and not set(node.weights) & set(committed.weights))
            if passed and not node.is_ancestor_of(view.node):
                raise Violation(
                    f"workers {sorted(committed.weights)} lead the round after step {committed.step}, though workers "
                    f"{sorted(node.weights)} have committed the one after step {node.step}"
                )

    def _check_forks(self, view: View, now: float) -> None:
        """All workers that live have the same history, as far as they have come."""
        for other in self.views:
            if other is view or not other.started or not self.lives(other):
                continue
            mine, theirs = view.node, other.node
            if mine.is_ancestor_of(theirs) or theirs.is_ancestor_of(mine):
                continue
            common = mine
            while not common.is_ancestor_of(theirs):
                assert common.parent is not None
                common = common.parent
            rounds = mine.rounds - common.rounds, theirs.rounds - common.rounds
            together = not self.torn if self.shape.needs_majority else now > self.disturbed
            if min(rounds) > (0 if together else 1):
                raise Violation(
                    f"workers {view.worker} and {other.worker} both live, and have gone on apart since the state of "
                    f"step {common.step}, for {rounds[0]} and {rounds[1]} rounds"
                )

    def _check_absent(self, committed: Any, now: float) -> None:
        """Whoever lives takes part in a round, or learns of it, unless it comes late once."""
        for view in self.views:
            if not self.lives(view) or view.worker in (*committed.weights, *committed.behind):
                view.took_part = now
            elif (absent := now - max(view.took_part, self.healed)) > LONGEST_ABSENCE_SECONDS:
                raise Violation(f"worker {view.worker} lives, and has taken no part for {absent:.0f} s")

    def _check_missed(self, view: View, node: Node | None) -> None:
        """Whoever was in a round and lives has committed it, if anybody has."""
        while node is not None and not node.is_ancestor_of(view.node):
            sent = self.sent.get((node.attempt, view.worker, node.step, node.fragment or 0), [])
            was_in = view.worker in node.weights and view.process in node.met
            if was_in and node.fragment is not None and any(one.view is view for one in sent):
                raise Violation(
                    f"worker {view.worker} has not committed the round after step {node.step}, though workers "
                    f"{sorted(node.weights)} have, and it was one of them"
                )
            node = node.parent

    def lives(self, view: View) -> bool:
        """Whether the process of a view runs."""
        return view.process is not None and view.process.alive and not view.process.paused

    def _compare(self, view: View, node: Node, anchor: numpy.ndarray, bits: int) -> None:
        if view.corrupt:
            node.corrupt = True
            return
        if node.bits is None:
            node.bits = bits
        if node.bits != bits:
            raise Violation(f"worker {view.worker} has other bits in its anchor than others with the same history")
        if self.shape.compressed:
            return
        difference = float(numpy.abs(anchor - node.anchor).max())
        if not difference < TOLERANCE:
            raise Violation(
                f"the anchor of worker {view.worker} after the round of step {node.step} is wrong by {difference:.2g}"
            )

    def _new_windows(self, view: View, position: int) -> None:
        view.windows = [Window(numpy.zeros(0))] * self.shape.fragments
        for fragment in range(self.shape.fragments):
            self._new_window(view, fragment, position)

    def _new_window(self, view: View, fragment: int, position: int) -> None:
        size = len(fragment_places(self.shape.fragments)[fragment])
        view.windows[fragment] = Window(numpy.zeros(size), begin=position, end=position)
