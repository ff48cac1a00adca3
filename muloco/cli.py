"""The command line: one function for each command, which imports what it needs.

A user's mistake is a UserError, and ends with one line and status 2; with -v the traceback comes before it.
"""

import argparse
import logging
import math
import os
import signal
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from rich.console import Console

from muloco import __version__
from muloco.console import open_console, replace_what_cannot_be_encoded, silence
from muloco.errors import RunFailed, UserError, error_reason, exit_status, naming, shown
from muloco.launch.lighthouse import LISTENS, LighthouseError
from muloco.model.flavors import aliases
from muloco.resolve import Resolution, resolution, resolve
from muloco.runs.folder import RunFolder, why_unwritable
from muloco.settings.bounds import Count
from muloco.settings.config import Config
from muloco.settings.fault_tolerance import FaultTolerance
from muloco.settings.load import find_config, load_config, locate
from muloco.settings.values import check_option, whole_number
from muloco.suggest import did_you_mean
from muloco.training.environment import ATTEMPT, check_environment, secret_in
from muloco.training.evaluation import MakeEvaluation

_TRAIN = """Train CONFIG: start the lighthouse and all workers, on this machine or on the nodes of the SLURM job that
the command runs in, show them while they run, and end with a summary and a plot of the loss in the run's folder."""
_PREPARE = """Tokenize the data of CONFIG into the cache ($MULOCO_CACHE, else ~/.cache/muloco), which `muloco train`
would do first. This is meant for large data, on a machine with many cores."""
_WORKER = """Run one worker of CONFIG (under torchrun where it has several ranks), joining the lighthouse at
$TORCHFT_LIGHTHOUSE. `muloco train` and job scripts start workers with it; by hand, give each worker its
--fault_tolerance.replica_id and all of them the same --run.name."""
_LIGHTHOUSE = """Run a lighthouse, at which the workers of a run meet, for workers that are started by hand; `muloco
train` starts one by itself. On a host other than loopback it accepts only workers with the secret in $MULOCO_SECRET.
Give it the same limits as in the fault_tolerance section of the config."""
_SWEEP = """Write the job scripts of the sweep in FILE (a Python file with a function `sweep()`) and list its jobs, or
submit them to SLURM within the node limit, each once, and failed ones again. `muloco sweep FILE status` says where they
stand. --section.field value options hold for all jobs. --submit and status use the options of the last --dry-run where
they are given none."""

_EVAL = """Evaluate a CHECKPOINT (a run folder, or checkpoint/step-N in one) on lm-eval's tasks, zero-shot: lm-eval's
results as JSON below evaluations/ in the run folder, a table, and the mean accuracy. Under torchrun the ranks share the
work."""
_EXPORT = """Write the model of a CHECKPOINT (a run folder, or checkpoint/step-N in one) into a new folder DIR: for
transformers, or as a state dict of torch."""
_GENERATE = """Continue a text with the model of a CHECKPOINT (a run folder, or checkpoint/step-N in one)."""
_CHECK = """Check that a CHECKPOINT (a run folder, or checkpoint/step-N in one) is whole: that every file of every part
exists, belongs to this checkpoint, and has the checksum that was recorded. The exit status is 1 if it is not whole."""
_PLAN = """Estimate what the run of FILE, a config, or the runs of FILE, a sweep, will take: GPUs, bytes between
workers, memory, and hours by the bandwidth of the workers' links. --section.field value options hold for all."""
_REPORT = """Tables and figures over finished runs, next to the paper's published figures: report.md,
report.html, tables/*.csv, figures/*.png and *.svg. RUN is a run folder, a folder of run folders, or a sweep's file,
whose jobs' run folders are taken. Runs that are missing, unfinished or broken are listed."""
_PSEUDOGRADIENTS = """Let K workers take H inner steps from a CHECKPOINT (checkpoint/step-N in a run folder, or a run
folder: then the newest checkpoint that the run had H more steps planned after), one after the other in this process,
and compare their pseudogradients: cosine to that of one worker, spectra, interference gap, and Proposition 4.2 of the
paper, step by step. The figures of several checkpoints, such as one of Muon and one of AdamW, are drawn side by side.
docs/pseudogradients.md says how everything is computed."""

_PAPER = """Check the paper's claims at a size for two CPU cores, on the embedded corpus: data-parallel AdamW and Muon,
DiLoCo and MuLoCo with 1 to 8 workers, each at its best inner learning rate with three seeds; critical batches, bits,
fragments, pseudogradients; and four studies beyond the paper. The command first says how long it takes, continues where
it was stopped, and ends with a page of claims, tables and figures. docs/claims.md shows such a page."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command.

    Returns:
        exit status: 0; 1 after a failure that may pass; 2 where the command or the config cannot be used; 3 after a
        failure that would occur again; 75 where a run can be resumed; 130 after Ctrl-C.
    """
    replace_what_cannot_be_encoded()
    try:
        return _run(argv)
    except UserError as error:
        _tell(error, str(error), argv)
        return 2
    except (RunFailed, LighthouseError) as error:
        _tell(error, str(error), argv)
        return exit_status(error)
    except BrokenPipeError:  # nobody reads stdout any more, as in `muloco train CONFIG --help | head`
        return 0
    except (OSError, UnicodeError) as error:  # a disk that is full, a path that no option names
        path = f"{shown(str(error.filename))}: " if isinstance(error, OSError) and error.filename is not None else ""
        _tell(error, f"{path}{error_reason(error)} (-v shows where)", argv)
        return 1
    except KeyboardInterrupt:
        sys.stderr.write("muloco: stopped\n")
        return 130
    finally:
        _flush_output()


def _run(argv: Sequence[str] | None) -> int:
    parser, words = _parser(), _words(argv)
    commands = next(list(action.choices) for action in parser._actions if action.choices)
    if words and not words[0].startswith("-") and words[0] not in commands:
        hint = did_you_mean(words[0], commands, cutoff=0.5) or f"the commands are {', '.join(commands)}"
        raise UserError(f"unknown command {words[0]}; {hint}")
    command, overrides = parser.parse_known_args(words)
    if command.help and command.config is None:
        command.parser.print_help()
        return 0
    if command.config is None:
        raise UserError(f"{command.parser.prog} needs a {command.needs}; try `{command.parser.prog} --help`")
    if command.help:
        overrides = [*overrides, "--help"]
    return command.run(command, overrides)


def _flush_output() -> None:
    """Flushes the output here, since Python itself would fail on a closed pipe or a full disk when it ends."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            silence(stream)


def _words(argv: Sequence[str] | None) -> list[str]:
    return sys.argv[1:] if argv is None else list(argv)


def _tell(error: Exception, reason: str, argv: Sequence[str] | None) -> None:
    """Says in one line what is wrong; with -v, after the traceback."""
    if not {"-v", "--verbose"}.isdisjoint(_words(argv)):
        traceback.print_exception(error)
    sys.stderr.write(f"muloco: {reason}\n")


class _Parser(argparse.ArgumentParser):
    """A parser whose errors are a user's mistakes as all others."""

    def error(self, message: str) -> NoReturn:
        reason = message.removeprefix("argument ").replace(": must ", " must ", 1)
        raise UserError(f"{reason}; try `{self.prog} --help`")


def _not_empty(word: str) -> str:
    if not word:
        raise argparse.ArgumentTypeError("must not be empty")
    return word


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="muloco", description="Train Llama language models by MuLoCo: Muon inside, DiLoCo outside.")
    parser.add_argument("--version", action="version", version=f"muloco {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    train = _command(commands, "train", _train, "train, here or over a SLURM job", _TRAIN)
    train.add_argument(
        "--dry-run", action="store_true", help="show the config with all derived values, without starting anything"
    )
    train.add_argument("--resume", action="store_true", help="resume the run from its newest checkpoint")
    _command(commands, "prepare", _prepare, "tokenize a config's data", _PREPARE)
    _command(commands, "worker", _worker, "run one worker of a run", _WORKER)
    _add_lighthouse(commands)
    _add_sweep(commands)
    _add_plan(commands)
    _add_report(commands)
    _add_analyze(commands)
    _add_paper(commands)
    _add_check_gpu(commands)
    _add_uses_of_checkpoints(commands)
    for command in commands.choices.values():
        _add_verbose(command)
    return parser


def _add_verbose(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "-v", "--verbose", action="store_true", help="show details: the traceback of an error, what SLURM says"
    )


def _command(commands, name: str, run, summary: str, description: str) -> argparse.ArgumentParser:
    parser = commands.add_parser(
        name,
        help=summary,
        description=description,
        usage=f"muloco {name} CONFIG [options] [--section.field value ...]",
        epilog=f"`muloco {name} CONFIG --help` lists every field of the config with its value. "
        f"--model.flavor is one of {', '.join(aliases())}.",
        add_help=False,
        allow_abbrev=False,
    )
    parser.add_argument(
        "config",
        metavar="CONFIG",
        nargs="?",
        type=_not_empty,
        help="such as config/laptop/muloco.py, or a run's folder",
    )
    parser.add_argument("-h", "--help", action="store_true", help="show this, or after CONFIG its fields, and exit")
    parser.set_defaults(run=run, parser=parser, needs="CONFIG")
    return parser


def _add_lighthouse(commands) -> None:
    limits = FaultTolerance()
    lighthouse = commands.add_parser(
        "lighthouse",
        help="run the lighthouse for workers started by hand",
        description=_LIGHTHOUSE,
        usage="muloco lighthouse [--host HOST] [--port PORT] [options]",
        epilog="docs/network.md lists the ports and explains the secret.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        allow_abbrev=False,
    )
    lighthouse.add_argument(
        "--host", type=_not_empty, default="127.0.0.1", help="name or address of this machine to listen on"
    )
    lighthouse.add_argument("--port", type=whole_number, default=29510, help="port to listen on; 0: a free one")
    lighthouse.add_argument(
        "--min_replica_size", type=whole_number, default=limits.min_replica_size, help="fewest workers that can train"
    )
    for name, what in (
        ("heartbeat_timeout_seconds", "silence after which a worker counts as dead"),
        ("straggler_timeout_seconds", "how long the other workers wait for one that is alive but late"),
    ):
        lighthouse.add_argument(f"--{name}", type=float, default=getattr(limits, name), help=what)
    lighthouse.set_defaults(run=_lighthouse, parser=lighthouse, config="", needs="nothing", help=False)


def _add_sweep(commands) -> None:
    from muloco.sweeps.options import add_profile_options

    sweep = commands.add_parser(
        "sweep",
        help="write and submit many runs",
        description=_SWEEP,
        usage="muloco sweep FILE [--dry-run | --submit | --here | status] [options] [--section.field value ...]",
        epilog="`muloco train CONFIG --help` lists every field of a config.",
        allow_abbrev=False,
    )
    sweep.add_argument(
        "config", metavar="FILE", nargs="?", type=_not_empty, help="such as jobs/muloco_paper/ddp_baselines_h100.py"
    )
    what = sweep.add_mutually_exclusive_group()
    what.add_argument("--dry-run", action="store_true", help="write the scripts and list the jobs (the default)")
    what.add_argument("--submit", action="store_true", help="write the scripts and submit them")
    what.add_argument("--here", action="store_true", help="run the jobs on this machine, without SLURM")
    sweep.add_argument(
        "--at-once", type=whole_number, default=1, metavar="N", help="jobs that --here runs at the same time"
    )
    sweep.add_argument("--retry", action="store_true", help="also submit jobs that have failed too often")
    sweep.add_argument("--folder", help="folder of the scripts (default: generated_job_files/NAME next to FILE)")
    add_profile_options(sweep)
    sweep.set_defaults(run=_sweep, parser=sweep, needs="FILE", help=False)


def _add_plan(commands) -> None:
    plan = commands.add_parser(
        "plan",
        help="hours, bytes and memory of runs to come",
        description=_PLAN,
        usage="muloco plan FILE [options] [--section.field value ...]",
        epilog="`muloco train CONFIG --help` lists every field of a config.",
        allow_abbrev=False,
    )
    plan.add_argument(
        "config", metavar="FILE", nargs="?", type=_not_empty, help="a config or a sweep, as for `train` and `sweep`"
    )
    plan.add_argument("--gpu", default="H100", metavar="NAME", help="A100, H100, H200 or B200 (default: H100)")
    plan.add_argument(
        "--gpus", type=whole_number, metavar="N", help="GPUs of all workers of a run (default: one per rank)"
    )
    plan.add_argument(
        "--utilization",
        type=float,
        metavar="SHARE",
        help="share of their peak that the GPUs reach, at 6 N FLOPs a token, as mfu_6n in a run's metrics "
        "(default: 0.39)",
    )
    plan.add_argument(
        "--gbit", type=float, nargs="+", metavar="RATE", help="Gbit/s of a worker's link; one value or several"
    )
    plan.add_argument("--plot", metavar="PICTURE", help="draw hours against bandwidth into a .png or .svg file")
    plan.set_defaults(run=_plan, parser=plan, needs="FILE", help=False)


def _add_report(commands) -> None:
    report = commands.add_parser(
        "report",
        help="tables and figures over finished runs",
        description=_REPORT,
        usage="muloco report RUN ... [--out DIR] [--published]",
        epilog="Exit status 2: there is no finished run to report on.",
        allow_abbrev=False,
    )
    report.add_argument(
        "runs",
        metavar="RUN",
        nargs="*",
        type=_not_empty,
        help="such as outputs, outputs/NAME or jobs/muloco_paper/15B.py",
    )
    report.add_argument("--out", metavar="DIR", default="report", help="folder to write (default: report)")
    report.add_argument(
        "--published", action="store_true", help="also draw the paper's points, and add its own tables; needs no RUN"
    )
    report.set_defaults(run=_report, parser=report, config="", needs="RUN", help=False)


def _add_analyze(commands) -> None:
    analyze = commands.add_parser("analyze", help="measurements on checkpoints", allow_abbrev=False)
    parser = analyze.add_subparsers(required=True, metavar="WHAT").add_parser(
        "pseudogradients",
        help="how K workers' pseudogradients agree",
        description=_PSEUDOGRADIENTS,
        usage="muloco analyze pseudogradients CHECKPOINT ... [--workers K ...] [--steps H] [--out DIR]",
        allow_abbrev=False,
    )
    parser.add_argument(
        "checkpoints", metavar="CHECKPOINT", nargs="*", type=_not_empty, help="outputs/NAME or .../checkpoint/step-N"
    )
    parser.add_argument(
        "--workers",
        metavar="K",
        type=whole_number,
        nargs="+",
        default=[1, 2, 4, 8],
        help="numbers of workers (default: 1 2 4 8); 1 is always added",
    )
    parser.add_argument(
        "--steps", metavar="H", type=whole_number, default=30, help="inner steps of each worker (default: 30)"
    )
    parser.add_argument("--out", metavar="DIR", default="pseudogradients", help="new folder (default: pseudogradients)")
    _add_verbose(parser)
    parser.set_defaults(run=_pseudogradients, parser=parser, config="", needs="CHECKPOINT", help=False)


def _add_paper(commands) -> None:
    from muloco.paper.options import add_options

    paper = commands.add_parser(
        "paper",
        help="the paper's claims, checked on this machine",
        description=_PAPER,
        usage="muloco paper [--quick] [options]",
        allow_abbrev=False,
    )
    add_options(paper)
    paper.set_defaults(run=_paper, parser=paper, config="", needs="nothing", help=False)


def _add_check_gpu(commands) -> None:
    from muloco.gpu_check.options import DESCRIPTION, add_options, epilog

    check = commands.add_parser(
        "check-gpu",
        help="run the checks that need a GPU",
        description=DESCRIPTION,
        usage="muloco check-gpu [--parts A,B] [--rows X,Y] [--minutes M] [--rehearse] [options]",
        epilog=epilog(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add_options(check)
    check.set_defaults(run=_check_gpu, parser=check, config="", needs="nothing", help=False)


def _add_uses_of_checkpoints(commands) -> None:
    from muloco import check, generate
    from muloco.evals import options as eval_options
    from muloco.export import options as export_options

    for name, run, options, words, summary, description in (
        ("eval", _eval, eval_options, "--tasks A,B", "lm-eval on a checkpoint", _EVAL),
        ("export", _export, export_options, "DIR", "a checkpoint for transformers", _EXPORT),
        ("generate", _generate, generate, "--prompt TEXT", "text from a checkpoint", _GENERATE),
        ("check", _check, check, "[--step N | --all]", "check that checkpoints are whole", _CHECK),
    ):
        parser = commands.add_parser(
            name,
            help=summary,
            description=description,
            usage=f"muloco {name} CHECKPOINT {words} [options]",
            allow_abbrev=False,
        )
        parser.add_argument(
            "config", metavar="CHECKPOINT", nargs="?", type=_not_empty, help="outputs/NAME or .../checkpoint/step-N"
        )
        options.add_options(parser)
        parser.set_defaults(run=run, parser=parser, needs="CHECKPOINT", help=False)


def _chosen(command: argparse.Namespace, overrides: Sequence[str]) -> Config:
    _refuse_misspelt(command, overrides)
    own = [f"[{action.option_strings[0]}]" for action in command.parser._actions if action.option_strings]
    usage = [command.parser.prog, command.config, *(option for option in own if option != "[-h]")]
    return load_config(command.config, overrides, prog=" ".join(usage))


def _refuse_misspelt(command: argparse.Namespace, words: Sequence[str]) -> None:
    """Raises UserError for a word that resembles an option of the command itself, and is not a field of a config."""
    own = [name for action in command.parser._actions for name in action.option_strings if name.startswith("--")]
    for option in (word.split("=", 1)[0] for word in words if word.startswith("--")):
        hint = did_you_mean(option.replace("_", "-"), own, cutoff=0.8)
        if hint and "." not in option and option not in own:
            raise UserError(f"unknown option {option}; {hint}")


def _train(command: argparse.Namespace, overrides: Sequence[str]) -> int:
    console = open_console(soft_wrap=True, work_behind=not command.dry_run)
    _log_to(console)
    logging.getLogger("muloco.data.tokenize").setLevel(logging.INFO)
    chosen = _chosen(command, overrides)
    resumption = None
    if command.resume:
        if command.dry_run:
            raise UserError("--dry-run shows a new run; it cannot be combined with --resume")
        from muloco.training.resuming import take_up

        locate(chosen, find_config(command.config), overrides)
        resumption = take_up(chosen)
        config, chosen = resumption.config, resumption.chosen
    else:
        found = _resolution(command, chosen)
        if command.dry_run:
            return _show(found)
        config = found.config
        for note in found.notes:
            console.print(f"note: {note}", style="yellow", markup=False)
    if config.evaluation.tasks and not (resumption is not None and resumption.ended):
        from muloco.evals.in_training import rehearse

        rehearse(config)  # unknown or missing tasks are reported now
    from muloco.analysis.plots import plot_loss
    from muloco.launch.supervisor import train

    outcome = train(config, chosen=chosen, resumption=resumption, console=console)
    if outcome.status == 0:
        try:
            console.print(f"loss curve: {plot_loss(outcome.folder)}")
        except Exception as error:  # the run is complete without its picture, whatever a plotting library raises
            console.print(f"the loss curve was not drawn: {type(error).__name__}: {error}", style="yellow")
    return outcome.status


def _log_to(console: Console) -> None:
    """Shows messages of warnings and errors, with the time as workers write it."""
    from rich.logging import RichHandler

    from muloco.training.worker_log import TIME

    handler = RichHandler(console=console, show_path=False, log_time_format=TIME)
    logging.basicConfig(format="%(message)s", handlers=[handler])


def _resolution(command: argparse.Namespace, chosen: Config) -> Resolution:
    found = resolution(chosen, config_name=find_config(command.config).stem)
    folder = RunFolder.of(found.config.run.outputs, found.config.run.name)
    with naming("run.outputs"):
        folder.root.exists()
    if (reason := why_unwritable(folder)) is not None:
        raise UserError(f"the run folder cannot be written to (run.outputs, run.name): {reason}")
    if found.config.evaluation.tasks:
        from muloco.evals.names import check_names

        check_names(found.config.evaluation.tasks, found.config.evaluation.include_path)
    return found


def _show(found: Resolution) -> int:
    from muloco.describe import describe

    sys.stdout.write(describe(found) + "\n")
    return 0


def _prepare(command: argparse.Namespace, overrides: Sequence[str]) -> int:
    from muloco.training.data import prepare_data

    chosen = _chosen(command, overrides)
    console = open_console(soft_wrap=True, work_behind=True)
    _log_to(console)
    logging.getLogger().setLevel(logging.INFO)
    console.print(prepare_data(resolve(chosen), verify=True).description(), markup=False)
    return 0


def _worker(command: argparse.Namespace, overrides: Sequence[str]) -> int:
    if "TORCHELASTIC_RUN_ID" in os.environ:  # torchrun starts its ranks in sessions that a kill of its own misses
        from muloco.launch.processes import end_with_parent

        end_with_parent(signal.SIGKILL)
    chosen = _chosen(command, overrides)
    locate(chosen, find_config(command.config), overrides)
    if chosen.run.name is None and chosen.fault_tolerance.group_size > 1:
        raise UserError("all workers of a run need the same --run.name")
    from muloco.training.worker_log import set_up_log

    set_up_log(rank=int(os.environ.get("RANK", "0")))
    config = resolve(chosen, config_name=find_config(command.config).stem)
    check_environment(config, os.environ)
    from muloco.launch.summary import sum_up_by_hand
    from muloco.training.worker import run_worker

    make_evaluation: MakeEvaluation | None = None
    if config.evaluation.tasks:
        from muloco.evals.in_training import TaskEvaluation

        make_evaluation = TaskEvaluation
    try:
        run_worker(config, chosen=chosen, make_evaluation=make_evaluation)
    except UserError:
        raise
    except Exception as error:  # whatever it is, the supervisor has to know whether to start the worker again
        sys.excepthook(type(error), error, error.__traceback__)  # torch's, which names the rank
        return exit_status(error)
    if ATTEMPT not in os.environ and os.environ["RANK"] == "0":  # no supervisor has started it
        sum_up_by_hand(config)
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    # A thread of gloo may still hold a tensor; to let go of it while Python ends would abort a worker that succeeded.
    os._exit(0)


def _lighthouse(command: argparse.Namespace, words: Sequence[str]) -> int:
    _refuse(command, words)
    if not 0 <= command.port < 2**16:
        raise UserError(f"--port must be from 0 to {2**16 - 1}; got {command.port}")
    for name in ("min_replica_size", "heartbeat_timeout_seconds", "straggler_timeout_seconds"):
        if not 0 < (value := getattr(command, name)) < math.inf:
            raise UserError(f"--{name} must be above 0; got {value}")
    from muloco.outer.network import is_loopback

    secret = b"" if is_loopback(command.host) else secret_in(os.environ)
    from muloco.outer.lighthouse import serve

    serve(
        command.host,
        command.port,
        secret=secret,
        least=command.min_replica_size,
        heartbeat_timeout=command.heartbeat_timeout_seconds,
        straggler_timeout=command.straggler_timeout_seconds,
        tell=_tell_address,
    )
    return 0


def _tell_address(address: str) -> None:
    sys.stdout.write(f"{LISTENS}{address}\n")
    sys.stdout.flush()


def _sweep(command: argparse.Namespace, words: Sequence[str]) -> int:
    from muloco.sweeps.command import run_sweep

    _refuse_misspelt(command, words)
    return run_sweep(command, words)


def _plan(command: argparse.Namespace, words: Sequence[str]) -> int:

    from muloco.analysis.plan_command import run_plan
    from muloco.sweeps.runs import runs_of

    _refuse_misspelt(command, words)
    runs, refused = runs_of(command.config, words)
    return run_plan(
        runs,
        refused=refused,
        gpu=command.gpu,
        gpus=command.gpus,
        utilization=command.utilization,
        rates=command.gbit,
        picture=Path(command.plot) if command.plot else None,
        console=open_console(),
    )


def _report(command: argparse.Namespace, words: Sequence[str]) -> int:

    from muloco.analysis.report.command import run_report
    from muloco.sweeps.runs import run_folders

    _refuse(command, words)
    if not command.runs and not command.published:
        raise UserError(f"{command.parser.prog} needs a RUN, or --published; try `{command.parser.prog} --help`")
    folders, problems = [], []
    for name in command.runs:
        with naming("RUN"):
            Path(name).exists()
        found, missing = run_folders(name) if name.endswith(".py") else ([Path(name)], [])
        folders += found
        problems += missing
    console = open_console(soft_wrap=True)
    return run_report(folders, problems=problems, out=Path(command.out), published=command.published, console=console)


def _paper(command: argparse.Namespace, words: Sequence[str]) -> int:
    _refuse(command, words)
    from muloco.paper.command import run_paper

    return run_paper(command)


def _check_gpu(command: argparse.Namespace, words: Sequence[str]) -> int:
    _refuse(command, words)
    from muloco.gpu_check.command import run_check_gpu

    return run_check_gpu(command)


def _pseudogradients(command: argparse.Namespace, words: Sequence[str]) -> int:
    _refuse(command, words)
    if not command.checkpoints:
        raise UserError(f"{command.parser.prog} needs a CHECKPOINT; try `{command.parser.prog} --help`")
    check_option("--workers", tuple[Count, ...], command.workers)
    check_option("--steps", Count, command.steps)
    from muloco.training.trained import find_trained

    for checkpoint in command.checkpoints:
        find_trained(checkpoint, verified=False)  # a missing checkpoint is reported before the slow imports
    from muloco.analysis.pseudogradients.command import run_pseudogradients

    return run_pseudogradients(command)


def _eval(command: argparse.Namespace, words: Sequence[str]) -> int:
    _refuse(command, words)
    from muloco.evals.command import run_eval

    return run_eval(command)


def _export(command: argparse.Namespace, words: Sequence[str]) -> int:
    _refuse(command, words)
    from muloco.export.command import run_export

    return run_export(command)


def _generate(command: argparse.Namespace, words: Sequence[str]) -> int:
    _refuse(command, words)
    from muloco.generate import run_generate

    return run_generate(command)


def _check(command: argparse.Namespace, words: Sequence[str]) -> int:
    _refuse(command, words)
    from muloco.check import run_check

    return run_check(command)


def _refuse(command: argparse.Namespace, words: Sequence[str]) -> None:
    """Raises UserError for words that a command without a config does not know."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    if words:
        known = [name for action in command.parser._actions for name in action.option_strings]
        hint = did_you_mean(words[0].split("=")[0], known, cutoff=0.5) or f"try `{command.parser.prog} --help`"
        raise UserError(f"unknown option {words[0]}; {hint}")
