"""Our model as lm-eval's API wants it. Importing this imports lm-eval."""

import itertools
from collections.abc import Iterable
from typing import Any

from lm_eval.api.model import TemplateLM
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from tokenizers import Tokenizer

from muloco.console import open_console
from muloco.data.tokenizer import DocumentTokenizer
from muloco.evals.scoring import Continuation, Score, Scorer
from muloco.model.generation import generate

MOST_NEW_TOKENS = 256
"""Where a task that generates does not say."""


class MulocoLM(TemplateLM):
    """Log-likelihoods by `Scorer`; generation greedily, one request after the other.

    lm-eval is told of one rank: every rank builds all requests and gets all scores, as the scorer shares the work.

    Args:
        scorer: of the model.
        tokenizer: text becomes tokens as its tokenizer.json says, as with `lm_eval --model hf`.
        quiet: show no progress.
    """

    def __init__(self, scorer: Scorer, tokenizer: DocumentTokenizer, *, quiet: bool = False):
        super().__init__()
        self._rank, self._world_size, self._device = 0, 1, scorer.device
        self._scorer = scorer
        self._bos_id, self._eos_id = tokenizer.bos_id, tokenizer.eos_id
        self._text = Tokenizer.from_file(str(tokenizer.folder / "tokenizer.json"))
        self._text.no_truncation()
        self._text.no_padding()
        self._bos = self._text.decode([self._bos_id], skip_special_tokens=False)
        self._quiet = quiet or (scorer.ranks is not None and scorer.ranks.rank() > 0)

    @property
    def eot_token_id(self) -> int:
        return self._eos_id

    @property
    def prefix_token_id(self) -> int:
        """Returns the token that stands for an empty context."""
        return self._bos_id

    @property
    def max_length(self) -> int:
        return self._scorer.longest

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **kwargs: Any) -> list[int]:
        if add_special_tokens is None:
            add_special_tokens = not string.startswith(self._bos)
        return self._text.encode(string, add_special_tokens=add_special_tokens).ids

    def loglikelihood(self, requests, disable_tqdm: bool = True) -> list[Score]:
        return super().loglikelihood(requests, disable_tqdm=True)  # of the tokenizing, which takes no time

    def _loglikelihood_tokens(self, requests, **kwargs: Any) -> list[Score]:
        return self._score((context, continuation) for _, context, continuation in requests)

    def loglikelihood_rolling(self, requests, disable_tqdm: bool = True) -> list[float]:
        windows = [self._windows(request.args[0]) for request in requests]
        scores = iter(self._score(itertools.chain(*windows)))
        return [sum(likelihood for likelihood, _ in itertools.islice(scores, len(own))) for own in windows]

    def _windows(self, text: str) -> list[tuple[list[int], list[int]]]:
        rolling = get_rolling_token_windows(
            token_list=self.tok_encode(text),
            prefix_token=self.prefix_token_id,
            max_seq_len=self.max_length,
            context_len=1,
        )
        return list(map(make_disjoint_window, rolling))

    def generate_until(self, requests, disable_tqdm: bool = True) -> list[str]:
        """All ranks generate all of it."""
        with self._progress() as progress:
            return [self._generate(*request.args) for request in progress.track(requests, description="generating")]

    def _generate(self, context: str, settings: dict[str, Any]) -> str:
        until = settings.get("until") or []
        until = [until] if isinstance(until, str) else list(until)
        if settings.get("do_sample") or settings.get("temperature"):
            raise ValueError(f"generation that samples is not supported in tasks; got {settings}")
        most = int(settings.get("max_gen_toks", MOST_NEW_TOKENS))
        if most >= self.max_length:
            raise ValueError(f"max_gen_toks {most} leaves no room in the {self.max_length} tokens that the model takes")
        prompt = self.tok_encode(context)[-(self.max_length - most) :] or [self.prefix_token_id]
        tokens: list[int] = []
        text = ""
        for token in generate(self._scorer.model, prompt, longest=len(prompt) + most):
            if token == self._eos_id:
                break
            tokens.append(token)
            text = self._text.decode(tokens)
            if any(stop in text for stop in until):
                break
        for stop in until:
            text = text.split(stop)[0]
        return text

    def _score(self, requests: Iterable[tuple[list[int], list[int]]]) -> list[Score]:
        asked = []
        for context, targets in requests:
            if not 0 < len(targets) <= self.max_length:
                raise ValueError(
                    f"a continuation of {len(targets)} tokens cannot be scored: the model takes {self.max_length}"
                )
            whole = (context + targets)[-(self.max_length + 1) :]
            asked.append(Continuation(tuple(whole[:-1]), tuple(targets)))
        with self._progress() as progress:
            task = progress.add_task("scoring", total=len(asked))
            return self._scorer(asked, lambda count: progress.update(task, advance=count))

    def _progress(self) -> Progress:
        columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
        return Progress(*columns, console=open_console(stderr=True), disable=self._quiet)

    def get_model_info(self) -> dict[str, Any]:
        """For lm-eval's JSON."""
        model = self._scorer.model
        return {
            "model_num_parameters": sum(parameter.numel() for parameter in model.parameters()),
            "model_dtype": str(next(model.parameters()).dtype),
            "max_length": self.max_length,
        }
