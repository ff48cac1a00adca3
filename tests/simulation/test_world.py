"""The scheduler: simulated time, kills, pauses, and the same course of events from the same seed."""

import pytest

from tests.simulation.world import Killed, Process, World


def _world(**limits) -> tuple[World, Process]:
    world = World(1, **limits)
    return world, Process(world, "worker", "m0")


def test_tasks_run_in_the_order_of_simulated_time():
    world, process = _world()
    seen = []

    def task(name: str, seconds: float) -> None:
        for _ in range(3):
            world.sleep(seconds)
            seen.append((world.now, name))

    world.spawn(process, lambda: task("slow", 3.0))
    world.spawn(process, lambda: task("fast", 2.0))
    assert world.run() == "stuck"
    # both are due at 6: the one that has begun to sleep first comes first
    assert seen == [(2, "fast"), (3, "slow"), (4, "fast"), (6, "slow"), (6, "fast"), (9, "slow")]


def test_a_task_is_woken_or_times_out():
    world, process = _world()
    answers = []
    waiting = world.spawn(process, lambda: answers.extend([world.wait(5.0), world.wait(5.0)]))
    world.at(1.0, lambda: world.wake(waiting))
    world.run()
    assert answers == [True, False] and world.now == 6.0


def test_nothing_that_a_killed_process_does_has_an_effect():
    world, process = _world()
    other = Process(world, "other", "m1")
    seen = []

    def work() -> None:
        try:
            world.sleep(10)
        except BaseException as error:
            seen.append(type(error))
        try:
            world.sleep(1)
        finally:
            world.tell("worker", "goes on after its end")

    def sent() -> None:
        world.point("sends")
        world.tell("worker", "has sent")

    def main() -> None:
        try:
            work()
        finally:
            sent()

    world.spawn(process, main)
    world.at(3.0, process.kill)
    world.at(4.0, lambda: world.tell("worker", "is called"), process)
    world.spawn(other, lambda: world.sleep(20))
    world.run()
    assert seen == [Killed]
    assert world.story == []
    assert world.now == 20


def test_time_goes_on_without_a_paused_process():
    world, process = _world()
    seen = []

    def work() -> None:
        for _ in range(4):
            world.sleep(1)
            seen.append(world.now)

    world.spawn(process, work)
    world.at(1.5, process.pause)
    world.at(7.0, process.resume)
    world.run()
    assert [round(time, 1) for time in seen] == [1, 7, 8, 9]


def test_a_process_can_be_paused_at_a_point():
    world, process = _world()
    world.on_point = lambda p, what: p.pause() if what == "sends" and world.now < 5 else None
    seen = []

    def work() -> None:
        world.sleep(1)
        world.point("sends")
        seen.append(world.now)

    world.spawn(process, work)
    world.at(6.0, process.resume)
    world.run()
    assert [round(time, 1) for time in seen] == [6]


def test_join_waits_for_a_task():
    world, process = _world()
    seen = []

    def main() -> None:
        world.spawn(process, lambda: world.sleep(3)).join()
        seen.append(world.now)

    world.spawn(process, main)
    world.run()
    assert seen == [3]


def test_the_world_ends_with_what_a_task_raises():
    world, process = _world()

    def work() -> None:
        raise ValueError("a mistake")

    world.spawn(process, work)
    world.spawn(process, lambda: world.sleep(100))
    assert world.run() == "failure"
    assert isinstance(world.failure, ValueError)


@pytest.mark.parametrize(("limits", "end"), [({"seconds": 50.0}, "time"), ({"events": 50}, "events")])
def test_a_world_without_end_is_ended(limits, end):
    world, process = _world(**limits)

    def work() -> None:
        while True:
            world.sleep(1)

    world.spawn(process, work)
    assert world.run() == end


def test_the_same_seed_gives_the_same_course():
    def course(seed: int) -> int:
        world = World(seed)
        process = Process(world, "worker", "m0")

        def work(name: str) -> None:
            for _ in range(20):
                world.sleep(world.random.random())
                world.tell(name, "goes on")

        for name in "abc":
            world.spawn(process, lambda name=name: work(name))
        world.run()
        return world.fingerprint()

    assert course(7) == course(7) != course(8)
