"""Bad networks: pairs that cannot reach each other, a worker that is cut off, long delays, a stranger on the network.

Workers and lighthouse are started by hand, each in a network namespace of its own (`network_run.py`).
"""

import json
import random
import time

from attacking.network_run import NetworkRun
from attacking.registry import Seen, attack

EQUAL = "some workers sync meanwhile; once the network is healed all do, with equal anchors"


def _disturbed(run: NetworkRun, seconds: float, members: set[int] | None = None) -> tuple[int, float]:
    """Returns the number of syncs meanwhile (of these workers, or of any) and the longest time without one."""
    since = time.time()
    time.sleep(seconds)
    found = sorted(
        line["time"] for line in run.syncs(since) if members is None or members <= set(map(int, line["weights"]))
    )
    gaps = [later - earlier for earlier, later in zip([since, *found], [*found, time.time()], strict=True)]
    return len({line["step"] for line in run.syncs(since)}) if found else 0, max(gaps)


def _cut(run: NetworkRun, *pairs: tuple[int, int]) -> Seen:
    for sender, receiver in pairs:
        if (answer := run.ask("cut", sender, receiver)) != "done":
            return Seen(impossible=answer)
    count, longest = _disturbed(run, 40)
    run.ask("heal")
    wrong = [] if count else ["no sync of anybody for 40 s"]
    return Seen(wrong=wrong, note=f"{count} syncs in 40 s, the longest gap {longest:.1f} s")


@attack("networks", must=EQUAL, scene="network")
def a_pair_cut_in_both_directions(run: NetworkRun, rng: random.Random) -> Seen:
    """Workers 1 and 2 cannot reach each other for 40 seconds; both can reach worker 0."""
    return _cut(run, (1, 2), (2, 1))


@attack("networks", must=EQUAL, scene="network")
def a_pair_cut_in_one_direction(run: NetworkRun, rng: random.Random) -> Seen:
    """Worker 1's packets to worker 2 get lost for 40 seconds."""
    return _cut(run, (1, 2))


@attack("networks", must="the others go on within seconds; it joins again once it is back", scene="network")
def a_worker_cut_off(run: NetworkRun, rng: random.Random) -> Seen:
    """Worker 2's link is down for 25 seconds."""
    if (answer := run.ask("off", 2)) != "done":
        return Seen(impossible=answer)
    count, longest = _disturbed(run, 25, {0, 1})
    run.ask("heal")
    wrong = [] if count else ["workers 0 and 1 had no sync for 25 s"]
    return Seen(wrong=wrong, note=f"{count} syncs of the others in 25 s, the longest gap {longest:.1f} s")


@attack("networks", must="all go on to sync, only slower", scene="network")
def long_ways(run: NetworkRun, rng: random.Random) -> Seen:
    """Every packet takes 200 ms longer, for 20 seconds."""
    answer = run.ask("delay", 200)
    if answer != "done":
        return Seen(impossible=f"the kernel has no netem: {answer}")
    count, longest = _disturbed(run, 20)
    run.ask("delay", 0)
    wrong = [] if count else ["no sync of anybody for 20 s"]
    return Seen(wrong=wrong, note=f"{count} syncs in 20 s, the longest gap {longest:.1f} s")


@attack("networks", must="it learns nothing, and no worker is killed", scene="network")
def a_stranger_on_the_network(run: NetworkRun, rng: random.Random) -> Seen:
    """A stranger in a namespace of its own tries HTTP, torchft's Kill and garbage at every port off loopback."""
    before = run.by_number()
    ports = [port for port in run.ports() if not port.on_loopback]
    everywhere = [port for port in ports if port.address in ("0.0.0.0", "::")]
    answer = run.ask("probe", *ports)
    if not answer.startswith("{"):
        return Seen(impossible=answer)
    told = json.loads(answer)
    wrong = [f"{port.owner} listens on all interfaces: {port}" for port in everywhere]
    for port in ports:
        for name, said in told[str(port)].items():
            if said.startswith("HTTP/1") and " 200 " in said.splitlines()[0]:
                wrong.append(f"{port.owner} answers a stranger ({name}): {said[:60]!r}")
    time.sleep(1)
    killed = [worker for worker, process in before.items() if run.by_number().get(worker) != process]
    wrong += [f"worker {worker} was killed by a stranger" for worker in killed]
    return Seen(tries=5 * len(ports), wrong=wrong, refused=f"{len(ports)} ports off loopback did not answer it")
