"""`muloco generate`: text from a checkpoint."""

import argparse
import sys

from muloco.errors import UserError
from muloco.settings.bounds import Count, NotNegative, Seed
from muloco.settings.values import check_option, whole_number


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--prompt", help="text to go on from; an empty one is the start of a document")
    parser.add_argument(
        "--step", type=whole_number, help="step of a run folder's checkpoint (default: the newest complete one)"
    )
    parser.add_argument("--tokens", type=whole_number, default=100, help="most new tokens (default 100)")
    parser.add_argument("--temperature", type=float, default=0.8, help="0: always the likeliest token (default 0.8)")
    parser.add_argument("--top-k", type=whole_number, help="draw from this many likeliest tokens only")
    parser.add_argument("--seed", type=whole_number, default=0, help="of the draws (default 0)")


def run_generate(command: argparse.Namespace) -> int:
    """Writes the prompt and what follows to stdout as it comes. Returns 0; raises UserError for what cannot be."""
    if command.prompt is None:
        raise UserError("muloco generate needs --prompt TEXT")
    check_option("--tokens", Count, command.tokens)
    check_option("--temperature", NotNegative, command.temperature)
    check_option("--top-k", Count | None, command.top_k)
    check_option("--seed", Seed, command.seed)
    try:
        command.prompt.encode()
    except UnicodeEncodeError as error:
        raise UserError(f"--prompt is not UTF-8 (at character {error.start + 1})") from None
    from muloco.training.trained import find_trained

    trained = find_trained(command.config, step=command.step)
    from muloco._torchtitan import device_type
    from muloco.model.generation import generate

    tokenizer, longest = trained.tokenizer(), trained.config.training.seq_len
    prompt = [tokenizer.bos_id, *tokenizer.encode_text(command.prompt)]
    if len(prompt) >= longest:
        raise UserError(f"--prompt has {len(prompt)} tokens, the model takes {longest}")
    if len(prompt) + command.tokens > longest:
        sys.stderr.write(f"muloco: ends after {longest} tokens, the prompt's included, which is what the model takes\n")

    written = tokenizer.decode(prompt)
    sys.stdout.write(written)
    tokens = list(prompt)
    for token in generate(
        trained.model(device_type()),
        prompt,
        longest=min(longest, len(prompt) + command.tokens),
        temperature=command.temperature,
        top_k=command.top_k,
        seed=command.seed,
    ):
        if token == tokenizer.eos_id:
            break
        tokens.append(token)
        text = tokenizer.decode(tokens)
        if not text.endswith("\N{REPLACEMENT CHARACTER}"):  # half of a character: the rest of it may come
            sys.stdout.write(text[len(written) :])
            sys.stdout.flush()
            written = text
    sys.stdout.write("\n")
    return 0
