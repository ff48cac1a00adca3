"""`muloco generate`: continue a text with the model of a checkpoint."""

import argparse
import sys

from muloco.commands.parser import Commands, add_checkpoint, add_command, add_step
from muloco.errors import UserError
from muloco.settings.annotations import Count, NotNegative, Seed
from muloco.settings.values import option_type

USAGE = "CHECKPOINT --prompt TEXT [options]"
DESCRIPTION = "Continue a text with the model of a CHECKPOINT (a run folder, or checkpoint/step-N in one)."


def add(commands: Commands) -> None:
    summary = "generate text from a checkpoint"
    parser = add_command(commands, "generate", run, summary=summary, usage=USAGE, description=DESCRIPTION)
    add_checkpoint(parser)
    meaning = "the text to continue; an empty one is the start of a document"
    parser.add_argument("--prompt", metavar="TEXT", help=meaning)
    add_step(parser)
    for name, metavar, type_, default, meaning in (
        ("--tokens", "N", Count, 100, "most new tokens (default: 100)"),
        ("--temperature", "T", NotNegative, 0.8, "0: always the likeliest token (default: 0.8)"),
        ("--top-k", "K", Count, None, "draw from the K likeliest tokens only"),
        ("--seed", "N", Seed, 0, "seed of the random draws (default: 0)"),
    ):
        parser.add_argument(name, type=option_type(type_), default=default, metavar=metavar, help=meaning)


def run(args: argparse.Namespace) -> int:
    """Writes the prompt and its continuation to stdout, token by token."""
    if args.prompt is None:
        raise UserError("muloco generate needs --prompt TEXT")
    try:
        args.prompt.encode()
    except UnicodeEncodeError as error:
        raise UserError(f"--prompt is not UTF-8 (at character {error.start + 1})") from None
    from muloco.training.trained import find_trained

    trained = find_trained(args.checkpoint, step=args.step)
    from muloco._torchtitan import device_type
    from muloco.model.generation import generate

    tokenizer, longest = trained.tokenizer(), trained.config.training.seq_len
    prompt = [tokenizer.bos_id, *tokenizer.encode_text(args.prompt)]
    if len(prompt) >= longest:
        raise UserError(f"--prompt has {len(prompt)} tokens, the model takes {longest}")
    if len(prompt) + args.tokens > longest:
        sys.stderr.write(f"muloco: ends after {longest} tokens, the prompt's included, which is what the model takes\n")

    written = tokenizer.decode(prompt)
    sys.stdout.write(written)
    tokens = list(prompt)
    for token in generate(
        trained.model(device_type()),
        prompt,
        longest=min(longest, len(prompt) + args.tokens),
        temperature=args.temperature,
        top_k=args.top_k,
        seed=args.seed,
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
