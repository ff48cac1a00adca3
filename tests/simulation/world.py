"""A world with a time of its own: tasks, of which exactly one runs, events, and processes that can be killed or paused.

Tasks are greenlets of one thread. A task runs until it waits; it then takes the next event, and switches to the task
that goes on. Simulated time passes only between events, so one seed gives one course of events.
"""

import heapq
import itertools
import zlib
from collections.abc import Callable
from functools import partial
from random import Random
from typing import Any

from greenlet import getcurrent, greenlet

LATE_SECONDS = 0.004
"""Most time by which a task goes on later than it could."""


class Killed(BaseException):
    """The process of this task has ended. It is raised at every point of the world that the task comes to from then
    on, so that nothing that it does in `finally` has an effect."""


class Violation(AssertionError):
    """A run has done something that must never happen."""


class Process:
    """A process of the simulated world.

    Args:
        world: where it runs.
        name: for stories; several processes in turn may have the same one.
        machine: name of its machine, see `network`.
    """

    def __init__(self, world: "World", name: str, machine: str):
        self.world, self.name, self.machine = world, name, machine
        self.alive = True
        self.paused = False
        self.jump = 0.0
        """Seconds by which its clock has jumped."""
        self.starved = 0.0
        """Seconds for which the next thread that it starts does not get to run."""
        self.tasks: set[Task] = set()
        self.held: list[Any] = []
        """Events that wait until it is resumed."""
        self.on_change: list[Callable[[], None]] = []
        """Called before it ends, is paused or is resumed."""
        self.on_end: list[Callable[[], None]] = []
        """Called when it has ended."""

    def kill(self) -> None:
        """Ends the process at once. Its tasks unwind without effect."""
        if not self.alive:
            return
        self._changes()
        self.alive = False
        for task in sorted(self.tasks, key=lambda t: t.number):
            task.dead = True
            self.world.push(0.0, task, task.token)
        for tell in self.on_end:
            tell()

    def pause(self) -> None:
        """Stops the process, as SIGSTOP does: time goes on without it."""
        if self.alive and not self.paused:
            self._changes()
            self.paused = True

    def resume(self) -> None:
        if self.paused:
            self._changes()
            self.paused = False
            held, self.held = self.held, []
            for owner, what in held:  # bytes that have arrived keep their order, tasks do not
                late = self.world.random.uniform(0.0, LATE_SECONDS) if isinstance(owner, Task) else 0.0
                self.world.push(late, owner, what)

    def _changes(self) -> None:
        for tell in self.on_change:
            tell()


class Task:
    """Work within a process: see `World.spawn`."""

    def __init__(self, process: Process, work: Callable[[], object], name: str, number: int):
        self.process, self.work, self.name, self.number = process, work, name, number
        self.token = 0
        """Number of its current wait: an event for an earlier one is out of date."""
        self.woken = False
        self.dead = False
        self.done = False
        self.greenlet: greenlet | None = None
        self.joining: list[Task] = []

    def join(self) -> None:
        """Waits until the work is done."""
        world = self.process.world
        while not self.done:
            assert world.current is not None
            self.joining.append(world.current)
            world.wait()


class World:
    """A simulated world.

    Args:
        seed: of `random`, the source of all that is random.
        seconds: see `seconds`.
        events: number of events after which it ends.
    """

    def __init__(self, seed: int, *, seconds: float = 36000.0, events: int = 1_000_000):
        self.random = Random(seed)
        self.now = 0.0
        self.events = 0
        self.failure: BaseException | None = None
        """What a task or an event has raised, which ends the world."""
        self.end = ""
        """Why `run` has returned: `stopped`, `stuck` (nobody can go on), `time`, `events` or `failure`."""
        self.current: Task | None = None
        self.story: list[tuple[float, str, str]] = []
        """What has happened: time, who, what."""
        self.on_point: Callable[[Process, str], None] = lambda process, what: None
        """Called at each point at which a process waits or sends."""
        self.seconds = seconds
        """Simulated time at which `run` ends."""
        self.most_events = events
        self._heap: list[tuple[float, int, Any, Any]] = []
        self._order = itertools.count()
        self._numbers = itertools.count()
        self._tasks: set[Task] = set()
        self._main = getcurrent()
        self._new: Task | None = None
        """The task that `run` is to begin."""

    def spawn(self, process: Process, work: Callable[[], object], name: str = "", after: float = 0.0) -> Task:
        """Starts a task in a process. It begins when the current task waits, or after some seconds."""
        task = Task(process, work, name, next(self._numbers))
        task.dead = not process.alive
        process.tasks.add(task)
        self._tasks.add(task)
        self.push(after, task, task.token)
        return task

    def at(self, delay: float, what: Callable[[], object], process: Process | None = None) -> None:
        """Calls a function after some seconds. It must not wait. With a process: if this one is alive then; while it is
        paused, the call waits."""
        self.push(delay, process, what)

    def push(self, delay: float, owner: Process | Task | None, what: Any) -> None:
        heapq.heappush(self._heap, (self.now + delay, next(self._order), owner, what))

    def wait(self, timeout: float | None = None) -> bool:
        """Waits until `wake` is called for this task, or until the timeout. Returns whether it was woken."""
        task = self.here()
        task.token += 1
        task.woken = False
        if timeout is not None:
            self.push(max(0.0, timeout), task, task.token)
        following = self._next()
        if following is not task:
            self._greenlet_of(following).switch()
        self.current = task
        if task.dead:
            raise Killed
        return task.woken

    def wake(self, task: Task) -> None:
        """Lets a task that waits go on."""
        if not task.woken and not task.done:
            task.woken = True
            self.push(0.0, task, task.token)

    def sleep(self, seconds: float) -> None:
        self.point("sleeps")
        self.wait(seconds)

    def may_be_late(self) -> None:
        """The current task may go on a bit later, as a thread does that another one has overtaken."""
        self.point("goes on")
        if (late := self.some_lateness()) > 0:
            self.wait(late)

    def some_lateness(self) -> float:
        """Returns by how many seconds a task goes on later than it could."""
        return self.random.uniform(0.0, LATE_SECONDS) if self.random.random() < 0.1 else 0.0

    def here(self) -> Task:
        """Returns the current task.

        Raises:
            Killed: its process has ended.
        """
        task = self.current
        assert task is not None, "this function waits, so only a task can call it"
        if task.dead:
            raise Killed
        return task

    def point(self, what: str) -> None:
        """The current task has come to a point at which it waits or sends, where a fault may happen."""
        process = self.here().process
        self.on_point(process, what)
        while process.paused and process.alive:  # it stops right here
            task = self.here()
            task.token += 1
            process.held.append((task, task.token))
            following = self._next()
            assert following is not task or not process.paused
            if following is not task:
                self._greenlet_of(following).switch()
            self.current = task
        self.here()

    def tell(self, who: str, what: str) -> None:
        """Adds a sentence to the story."""
        if self.current is None or not self.current.dead:
            self.story.append((self.now, who, what))

    def fail(self, error: BaseException) -> None:
        """Ends the world with an error."""
        if self.failure is None:
            self.failure = error

    def stop(self) -> None:
        """Ends the world."""
        self.end = self.end or "stopped"

    def run(self) -> str:
        """Runs until `stop`, an error, or a limit. All tasks have ended then. Returns `end`."""
        self._main = getcurrent()
        self._new = self._next()
        while (task := self._new) is not None:
            self._new, self.current = None, task
            task.greenlet = greenlet(partial(self._carry_out, task))
            task.greenlet.switch()
        self.end = self.end or "stopped"
        for task in sorted(self._tasks, key=lambda t: t.number):
            if task.greenlet is not None and not task.done:
                task.dead = True
                self.current = task
                task.greenlet.switch()
        self._heap.clear()
        return self.end

    def fingerprint(self) -> int:
        """Returns a checksum of the whole course of events."""
        return zlib.crc32(repr((self.story, self.events, self.now)).encode())

    def _carry_out(self, task: Task) -> None:
        """Does the work of a task; its greenlet then switches to the one that goes on."""
        try:
            if not task.dead:
                task.work()
        except Killed:
            pass
        except BaseException as error:
            if not task.dead:
                self.tell(task.process.name, f"ends the simulation with {type(error).__name__}: {error}")
                self.fail(error)
        task.done = True
        task.process.tasks.discard(task)
        self._tasks.discard(task)
        for other in task.joining:
            self.wake(other)
        self.current = None
        getcurrent().parent = self._greenlet_of(self._next())

    def _greenlet_of(self, task: Task | None) -> greenlet:
        """Returns where to switch to, so that a task goes on. `run` begins all tasks: where torch raises an error, it
        looks at all frames of the stack, also at those that are below the first one of the task."""
        if task is None or task.greenlet is None:
            self._new = task
            return self._main
        self.current = task
        return task.greenlet

    def _next(self) -> Task | None:
        """Takes events until a task goes on, and returns it; None: the world has ended."""
        self.current = None
        while not self.end:
            if self.failure is not None:
                self.end = "failure"
            elif not self._heap:
                self.end = "stuck"
            elif self.events >= self.most_events:
                self.end = "events"
            elif self._heap[0][0] > self.seconds:
                self.end = "time"
            else:
                self.now, _, owner, what = heapq.heappop(self._heap)
                self.events += 1
                if isinstance(owner, Task):
                    if owner.done or owner.token != what:
                        continue
                    if owner.process.paused and not owner.dead:
                        owner.process.held.append((owner, what))
                        continue
                    return owner
                if owner is not None and not owner.alive:
                    continue
                if owner is not None and owner.paused:
                    owner.held.append((owner, what))
                    continue
                try:
                    what()
                except Exception as error:
                    self.fail(error)
        return None
