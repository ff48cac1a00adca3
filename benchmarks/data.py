"""Tokens a second of both ways to read the same jsonl files: prepared (and preparing them), and streamed.

    python benchmarks/data.py [--megabytes 24] [--output results/data/tokens_per_second.json]

The files are made from the embedded corpus, cut into documents of some 4,000 characters, each used several times with
another first line. The kinds take turns; every figure is the fastest of its five runs, each on new loaders, since
whatever else a machine does only slows them (all runs are in the JSON). What the loaders yield is counted, batches of
8 x 2048 tokens, over the whole corpus once.
"""

import argparse
import itertools
import json
import os
import platform
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import tokenizers

from muloco.data import tokenize
from muloco.data.corpus import embedded_corpus
from muloco.data.prepare import open_tokenizer, prepare_source
from muloco.data.prepared import Prepared
from muloco.data.sources import open_source
from muloco.data.tokenize import Part
from muloco.data.tokenizer import DocumentTokenizer
from muloco.settings.data import ResolvedData

RUNS = 5
FILES = 4
DOCUMENT = 4000
SEQ_LEN, BATCH = 2048, 8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, default=24)
    parser.add_argument("--output", type=Path, default=Path("results/data/tokens_per_second.json"))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        corpus, cache = Path(scratch, "corpus"), Path(scratch, "cache")
        write_files(corpus, options.megabytes * 1_000_000)
        size = open_source(str(corpus), "text").size
        tokenizer = open_tokenizer("embedded", 2048, cache)
        rates: dict[str, list[float]] = {}
        for run in range(RUNS):
            for processes in sorted({1, cores()}):
                rate, prepared = preparing(corpus, tokenizer, Path(scratch, f"{run}-{processes}"), processes)
                rates.setdefault(f"preparing, processes: {processes}", []).append(rate)
            rates.setdefault("reading what is prepared", []).append(reading(prepared_loader(prepared), prepared))
            rates.setdefault("streaming", []).append(reading(streaming_loader(corpus, tokenizer), prepared))
    result = {
        "tokens_per_second": {name: round(max(found)) for name, found in rates.items()},
        "runs": {name: [round(rate) for rate in found] for name, found in rates.items()},
        "tokens": prepared.sizes["train"].tokens,
        "bytes": size,
        "files": FILES,
        "vocabulary": tokenizer.vocab_size,
        "batch": [BATCH, SEQ_LEN],
        "cores": cores(),
        "tokenizers": tokenizers.__version__,
        "python": platform.python_version(),
    }
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(result, indent=2) + "\n")
    print(f"{result['tokens']:,} tokens, {result['bytes'] / 1e6:.0f} MB of text, {cores()} cores")
    for name, rate in result["tokens_per_second"].items():
        print(f"{name:28} {rate:>12,} tokens/s")
    print(f"written to {options.output}")


def cores() -> int:
    return len(os.sched_getaffinity(0))


def write_files(folder: Path, size: int) -> None:
    folder.mkdir()
    files = [(folder / f"{number}.jsonl").open("w") for number in range(FILES)]
    written = 0
    for number, text in enumerate(documents()):
        line = json.dumps({"text": f"# {number}\n{text}"}) + "\n"
        files[number % FILES].write(line)
        written += len(line)
        if written >= size:
            break
    for file in files:
        file.close()


def documents() -> Iterator[str]:
    texts = [document.text for document in embedded_corpus().documents]
    pieces = [text[start : start + DOCUMENT] for text in texts for start in range(0, len(text), DOCUMENT)]
    return itertools.cycle(piece for piece in pieces if not piece.isspace())


def preparing(corpus: Path, tokenizer: DocumentTokenizer, cache: Path, processes: int) -> tuple[float, Prepared]:
    tokenize._processes = lambda source: processes
    started = time.perf_counter()
    prepared = prepare_source(open_source(str(corpus), "text"), tokenizer, part=Part.TRAIN, cache=cache)
    return prepared.sizes["train"].tokens / (time.perf_counter() - started), prepared


def prepared_loader(prepared: Prepared) -> Callable:
    from muloco.data.loader import PackedDataLoader  # not above: processes that tokenize need no torch

    return PackedDataLoader.Config(folders=(str(prepared.folder),), seed=1).build


def streaming_loader(corpus: Path, tokenizer: DocumentTokenizer) -> Callable:
    from muloco.data.loader import StreamingDataLoader

    data = ResolvedData(corpus=str(corpus), prepare=False, validation="another source")
    return StreamingDataLoader.Config(data=data, tokenizer_folder=str(tokenizer.folder), seed=1).build


def reading(build: Callable, prepared: Prepared) -> float:
    """Measures one epoch, the start included."""
    started = time.perf_counter()
    loader = build(dp_world_size=1, dp_rank=0, tokenizer=None, seq_len=SEQ_LEN, local_batch_size=BATCH)
    batches = prepared.sizes["train"].tokens // (BATCH * SEQ_LEN)
    for _ in itertools.islice(loader, batches):
        pass
    return batches * BATCH * SEQ_LEN / (time.perf_counter() - started)


if __name__ == "__main__":
    main()
