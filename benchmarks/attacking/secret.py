"""Searches for the secret of a run, and plants files in its place."""

import random
import shutil

from attacking.live import CONFIG, SETTINGS, LiveRun, command_line, words
from attacking.registry import Report, Seen, Verdict, attack
from attacking.scenes import Workshop
from attacking.strangers import secret_of


@attack(
    "secret",
    must="it is in no file but .secret (mode 600), on no command line and in no output",
    scene="crew",
    short=True,
)
def search_for_the_secret(run: LiveRun, rng: random.Random) -> Seen:
    """Searches all files of a live run, the command lines of its processes and its output for the secret."""
    secret = secret_of(run)
    if secret is None:
        return Seen(wrong=["the run has no secret"])
    wrong, tries = [], 0
    for path in (run.console, *run.files.rglob("*")):
        if path.is_file() and path.name != ".secret":
            tries += 1
            try:
                found = secret.encode() in path.read_bytes()
            except OSError:
                continue  # a checkpoint that is replaced meanwhile
            wrong += [f"{path.name} has it"] if found else []
    for process, what in run.processes().items():
        tries += 1
        wrong += [f"it is on the command line of the {what}"] if secret in " ".join(command_line(process)) else []
    mode = (run.files / ".secret").stat().st_mode & 0o777
    wrong += [f".secret has mode {mode:o}"] if mode != 0o600 else []
    return Seen(tries=tries, wrong=wrong, note=f"{tries} files and command lines")


@attack("secret", must="the file that the link points at stays as it is; the run starts, or is refused in one line")
def a_planted_link_in_place_of_the_secret(workshop: Workshop, rng: random.Random) -> Report:
    """Puts a link, and then a file that others may read, in the place where a run writes its secret, and starts it."""
    report = Report()
    for kind in ("link", "file"):
        room = workshop.room()
        victim = room / "victim"
        victim.write_text("a known text of the attacker\n")
        place = room / "planted" / ".secret"
        place.parent.mkdir()
        if kind == "link":
            place.symlink_to(victim)
        else:
            place.write_text("a known text of the attacker\n")
            place.chmod(0o666)
        settings = {**SETTINGS, "training.steps": 5, "fault_tolerance.group_size": 2, "checkpoint.enable": False}
        settings |= {"run.name": "planted", "run.outputs": str(room)}
        done = workshop.command("train", CONFIG, *words(settings))
        said = (done.stdout + done.stderr).strip()
        last = said.splitlines()[-1] if said else ""
        if victim.read_text() != "a known text of the attacker\n":
            report.add(Verdict.LOST, f"{kind}: the file that the link points at was written to")
        elif done.returncode == 124:
            report.add(Verdict.HUNG, f"{kind}: {last}")
        elif "Traceback" in said or done.returncode not in (0, 2):
            report.add(Verdict.LOST, f"{kind}: status {done.returncode}: {last}")
        else:
            report.add(Verdict.REFUSED if done.returncode else Verdict.SURVIVED, f"{kind}: {last}")
        shutil.rmtree(room)
    return report
