"""A real SLURM on this machine: slurmctld and four nodes n1 to n4 (slurmd) with 16 CPUs and 8 GPUs each, which are
nothing but device files. For root, with Debian's packages slurmctld, slurmd and slurm-client.

    python tests/integration/slurm/cluster.py FOLDER    # until Ctrl-C; then: export SLURM_CONF=FOLDER/slurm.conf
"""

import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

PROGRAMS = ("slurmctld", "slurmd", "sbatch", "srun", "scontrol", "squeue", "scancel", "sinfo")
NODES = ("n1", "n2", "n3", "n4")
SECONDS = 600
"""Whatever SLURM takes longer for hangs, on a busy machine too; it takes about a second where nothing else runs."""
CONFIG = """
ClusterName=test
SlurmctldHost=localhost(127.0.0.1)
SlurmctldPort={port}
SlurmUser=root
SlurmdUser=root
AuthType=auth/none
CredType=cred/none
AuthInfo=cred_expire=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool/%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/filetxt
JobCompLoc={folder}/finished.txt
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=sched_interval=1,bf_interval=1,sched_min_interval=0,batch_sched_delay=0
SlurmdParameters=config_overrides
SlurmctldParameters=preempt_send_user_signal
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
EnforcePartLimits=ALL
ReturnToService=2
KillWait=5
MailProg=/bin/true
GresTypes=gpu
NodeName=n[1-4] NodeHostname=localhost NodeAddr=127.0.0.1 Port=[{first}-{last}] CPUs=16 RealMemory=20000 Gres=gpu:8
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE PriorityTier=10 GraceTime=60
PartitionName=urgent Nodes=ALL MaxTime=INFINITE PriorityTier=20 PreemptMode=OFF
"""


def why_missing() -> str | None:
    """What keeps the cluster from being started here; None: nothing."""
    missing = [program for program in PROGRAMS if shutil.which(program) is None]
    if missing:
        return f"no {', '.join(missing)}: apt-get install slurmctld slurmd slurm-client"
    return None if os.geteuid() == 0 else "the nodes of the test SLURM are started by root"


@contextmanager
def cluster(folder: Path) -> Iterator[dict[str, str]]:
    """The cluster while the context lasts, and the environment in which SLURM's commands find it.

    Args:
        folder: for its state and logs; absolute.
    """
    for name in ("state", "gpus", *(f"spool/{node}" for node in NODES)):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for gpu in range(8):
        device = folder / "gpus" / f"gpu{gpu}"
        device.unlink(missing_ok=True)
        os.mknod(device, 0o666 | stat.S_IFCHR, os.makedev(1, 3))
    port = _free_ports(1 + len(NODES))
    config = CONFIG.format(folder=folder, port=port, first=port + 1, last=port + 4).strip()
    (folder / "slurm.conf").write_text(config + "\n")
    (folder / "gres.conf").write_text(f"NodeName=n[1-4] Name=gpu File={folder}/gpus/gpu[0-7]\n")
    environment = {**os.environ, "SLURM_CONF": str(folder / "slurm.conf")}
    daemons = [start_daemon(folder, environment, "slurmctld", "-D", "-c")]
    daemons += [start_daemon(folder, environment, "slurmd", "-D", "-N", node) for node in NODES]
    try:
        _wait_for_nodes(environment, folder, daemons)
        yield environment
    finally:
        for command in (["scancel", "--user=root"], ["squeue", "--noheader"]):
            deadline = time.monotonic() + SECONDS
            while _say(environment, *command).strip() and time.monotonic() < deadline:
                time.sleep(0.5)
        for daemon in reversed(daemons):
            daemon.send_signal(signal.SIGTERM)
        for daemon in reversed(daemons):
            try:
                daemon.wait(SECONDS)
            except subprocess.TimeoutExpired:
                daemon.kill()


def start_daemon(folder: Path, environment: dict[str, str], *command: str) -> subprocess.Popen:
    with (folder / "daemons.log").open("a") as log:
        return subprocess.Popen(
            command, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
        )


def _free_ports(count: int) -> int:
    """The first of so many that nobody listens on: other test runs may have a SLURM of their own."""
    for first in range(16900, 20000, count):
        with ExitStack() as held:
            try:
                for port in range(first, first + count):
                    held.enter_context(socket.create_server(("127.0.0.1", port)))
            except OSError:
                continue
            return first
    raise RuntimeError("no free ports for SLURM from 16900 to 20000")


def _wait_for_nodes(environment: dict[str, str], folder: Path, daemons: list[subprocess.Popen]) -> None:
    deadline = time.monotonic() + SECONDS
    while _say(environment, "sinfo", "--noheader", "--Node", "--partition=main", "--format=%t").split() != ["idle"] * 4:
        if time.monotonic() > deadline or any(daemon.poll() is not None for daemon in daemons):
            raise RuntimeError(f"SLURM did not come up within {SECONDS} s; its logs are in {folder}")
        time.sleep(0.2)


def _say(environment: dict[str, str], *command: str) -> str:
    finished = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=SECONDS)
    return finished.stdout


if __name__ == "__main__":
    if (reason := why_missing()) is not None:
        sys.exit(reason)
    with cluster(Path(sys.argv[1]).absolute()):
        sys.stdout.write(f"export SLURM_CONF={Path(sys.argv[1]).absolute()}/slurm.conf\n")
        sys.stdout.flush()
        signal.sigwait({signal.SIGINT, signal.SIGTERM})
