"""`muloco generate`: continue a text with the model of a checkpoint."""

import argparse
import sys

from muloco.commands.parser import Commands, add_checkpoint, add_command, add_step
from muloco.errors import UserError
from muloco.settings.annotations import Count, NotNegative, Seed
from muloco.settings.values import check_option, whole_number

DESCRIPTION = "Continue a text with the model of a CHECKPOINT (a run folder, or checkpoint/step-N in one)."


def add(commands: Commands) -> None:
    parser = add_command(
        commands,
        "generate",
        run,
        summary="generate text from a checkpoint",
        description=DESCRIPTION,
        usage="muloco generate CHECKPOINT --prompt TEXT [options]",
    )
    add_checkpoint(parser)
    parser.add_argument(
        "--prompt", metavar="TEXT", help="the text to continue; an empty one is the start of a document"
    )
    add_step(parser)
    parser.add_argument("--tokens", type=whole_number, default=100, metavar="N", help="most new tokens (default: 100)")
    parser.add_argument(
        "--temperature", type=float, default=0.8, metavar="T", help="0: always the likeliest token (default: 0.8)"
    )
    parser.add_argument("--top-k", type=whole_number, metavar="K", help="draw from the K likeliest tokens only")
    parser.add_argument(
        "--seed", type=whole_number, default=0, metavar="N", help="seed of the random draws (default: 0)"
    )


def run(args: argparse.Namespace) -> int:
    """Writes the prompt and its continuation to stdout, token by token.

    Raises:
        UserError: an option or the checkpoint cannot be used.
    """
    if args.prompt is None:
        raise UserError("muloco generate needs --prompt TEXT")
    check_option("--tokens", Count, args.tokens)
    check_option("--temperature", NotNegative, args.temperature)
    check_option("--top-k", Count | None, args.top_k)
    check_option("--seed", Seed, args.seed)
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
