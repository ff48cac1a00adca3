"""The state of each worker while a run goes on, and its description: what it does, and which worker it waits for."""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from muloco.runs.folder import STATE
from muloco.runs.states import State
from muloco.settings.config import ResolvedConfig

STARTING = "starting"
LOST = "lost"
_NOT_BEGUN = (STARTING, State.PREPARING, State.BUILDING, State.LOADING, State.RESUMED)
_ENDED = (State.FINISHED, State.STOPPED)


class Standing:
    """The state of one worker, from its metrics and its supervisor."""

    def __init__(self, worker: int):
        self.worker = worker
        self.state: str = STARTING
        self.step: int | None = None
        """The last inner step in its metrics."""
        self.synced: int | None = None
        """The inner step of its last sync."""
        self.megabytes: float | None = None
        """Bytes that it has sent to others."""
        self.values: dict[str, Any] = {}
        """The newest values of its metrics, by name, since its process was started; none while it is lost."""
        self.restart: float | None = None
        """Seconds until it is restarted, while it is lost."""

    def take(self, line: dict[str, Any]) -> None:
        """Takes a line of its metrics."""
        event = line.get("event")
        if event == STATE:
            self.state = line["state"]
            if self.state in _NOT_BEGUN:
                self.values = {}
        if event != STATE or self.state not in _NOT_BEGUN or self.state == State.RESUMED:
            self.step = line["step"]
        if event == "sync":
            self.synced = line["step"]
            self.megabytes = (self.megabytes or 0.0) + line["bytes_sent"] / 1e6
        self.values.update(line)

    def supervised(self, restart: float | None, *, lost: bool) -> None:
        """Takes whether its process is lost, and in how many seconds it is restarted (None: it is not)."""
        if lost:
            self.state, self.restart, self.values = LOST, restart, {}
        elif self.state == LOST:
            self.state, self.restart = STARTING, None

    @property
    def takes_part(self) -> bool:
        """Whether it runs, rather than being lost or about to start."""
        return self.state != LOST and self.state not in _NOT_BEGUN

    @property
    def stands_still(self) -> bool:
        """Whether it waits for others, or is done."""
        return self.state in (State.MEETING, State.SYNCING, *_ENDED)

    def has_come_to(self, step: int) -> bool:
        """Whether it has joined the sync after that step, or has finished it."""
        at_sync = self.state == State.SYNCING and (self.step or 0) >= step
        return at_sync or (self.step or 0) > step or self.synced == step or self.state in _ENDED


def doing(worker: Standing, workers: Sequence[Standing], config: ResolvedConfig) -> str:
    """Describes in a few words what one of these workers does. Where inner steps go on during a sync
    (`fragment_sync_delay`), a late worker cannot be told from outside."""
    step, in_turns = worker.step or 0, config.worker_processes < config.workers
    if worker.state == LOST:
        return LOST if worker.restart is None else f"{LOST}, restarting in {worker.restart:.0f} s"
    if worker.state == State.MEETING:
        if any(other.takes_part and (other.step or 0) > step for other in workers):
            return "waits for its turn" if in_turns else "rejoining at the next sync"
        late = [other.worker for other in workers if other.state != State.MEETING]
        return _waits(late) if late else str(worker.state)
    if worker.state == State.SYNCING and config.fault_tolerance.fragment_sync_delay == 0:
        late = late_for(step, workers)
        return _waits(late) if late else "waits for its turn" if in_turns else str(worker.state)
    return str(worker.state)


def late_for(step: int, workers: Sequence[Standing]) -> list[int]:
    """The workers that the sync after a step waits for. A lost worker is one of them until the lighthouse has noticed
    the loss; a worker that is only about to start is not."""
    return [
        other.worker
        for other in workers
        if (other.takes_part and other.state != State.MEETING) or other.state == LOST
        if not other.has_come_to(step)
    ]


def by_need(workers: Sequence[Standing], config: ResolvedConfig) -> list[Standing]:
    """The workers, first those that need attention: lost ones, those that have not joined yet, those that others wait
    for."""
    syncing = [worker.step or 0 for worker in workers if worker.state == State.SYNCING]
    late = set(late_for(max(syncing), workers)) if syncing else set()
    in_turns = config.worker_processes < config.workers

    def need(worker: Standing) -> tuple[bool, bool, bool, bool, int]:
        joins = not worker.takes_part or (worker.state == State.MEETING and not in_turns)
        return worker.state != LOST, not joins, worker.worker not in late, worker.stands_still, worker.worker

    return sorted(workers, key=need)


def summary(workers: Sequence[Standing], room: int) -> str:
    """Sums up what several workers do, such as `8 training, 1 lost`. Where this does not fit into that number of cells,
    states are shortened to their first words, and the rarest ones become `3 other`."""
    counts = Counter(str(worker.state) for worker in workers).most_common()
    text = ", ".join(f"{count} {state}" for state, count in counts)
    for shown in range(len(counts), 0, -1):
        if len(text) <= room:
            break
        words = [f"{count} {state.split()[0]}" for state, count in counts[:shown]]
        other = sum(count for _, count in counts[shown:])
        text = ", ".join([*words, f"{other} other"] if other else words)
    return text


def span(steps: Iterable[int | None]) -> str:
    """The range of their steps, as far as these are known."""
    known = [step for step in steps if step is not None]
    if not known:
        return "-"
    low, high = min(known), max(known)
    return str(low) if low == high else f"{low}-{high}"


def _waits(late: Sequence[int]) -> str:
    if len(late) > 2:
        return f"waits for {len(late)} workers"
    return f"waits for worker {' and '.join(map(str, late))}"
