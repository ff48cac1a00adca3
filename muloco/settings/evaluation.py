"""How the anchor is validated and evaluated while it is trained."""

import importlib.util
from dataclasses import dataclass

from muloco.errors import UserError
from muloco.settings.annotations import Count, MayChange, Text
from muloco.settings.section import Section


@dataclass(kw_only=True, slots=True)
class Validation(Section):
    """Loss of the anchor on a fixed held-out set, the same for every worker and method. Workers share its batches."""

    freq: MayChange[Count] = 15
    """Inner steps between two validations. The anchor is also validated before the first and after the last step. The
    workers' own weights are validated at validated steps that end with an outer step."""
    sequences: Count = 1024
    """Held-out sequences of training.seq_len tokens; any number, independent of the ranks and their batches."""


@dataclass(kw_only=True, slots=True)
class Evaluation(Section):
    """lm-eval on the anchor while it is trained, zero-shot; docs/evaluation.md says more."""

    tasks: tuple[Text, ...] = ()
    """Tasks and groups of lm-eval or of your own; `paper`: those of the paper. Without any, there is no evaluation."""
    at: tuple[int | float, ...] = (0.25, 0.5, 0.75, 1.0)
    """When to evaluate. A number with a decimal point is a share of the run (1.0: after the last step), one without is
    an inner step."""
    include_path: Text | None = None
    """Folder with tasks of your own, as lm-eval's YAML files."""
    limit: Count | None = None
    """Number of documents of each task. None: all."""
    batch_tokens: Count = 8192
    """Number of tokens in a batch of a rank, padding included."""

    def check(self) -> None:
        """Checks what concerns this section alone.

        Raises:
            UserError: a time is out of range, or lm-eval is needed and is not installed.
        """
        for at in self.at:
            if isinstance(at, float) and not 0 < at <= 1:
                raise UserError(f"evaluation.at: a number with a point is a share of the run, up to 1.0; got {at}")
            if isinstance(at, int) and at < 1:
                raise UserError(f"evaluation.at: steps count from 1; got {at}")
        if self.tasks:
            need_lm_eval()


def need_lm_eval() -> None:
    """Raises UserError, which says what to install, if lm-eval is not installed."""
    if importlib.util.find_spec("lm_eval") is None:
        raise UserError(
            "evaluation needs lm-eval: pip install 'lm-eval[hf]==0.4.13', or ./install_dependencies.sh --extras eval"
        )
