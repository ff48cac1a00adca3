"""Three tasks on data of their own, as a user writes them: one for each kind of request that asks for likelihoods."""

import json
import random
from pathlib import Path

WORDS = ["import", "return", "class", "self", "value", "none", "true", "list", "dict", "name", "file", "path", "open"]

CHOICE = """\
task: local_choice
dataset_path: json
dataset_kwargs: {{data_files: {{test: {folder}/choice.jsonl}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{question}}}}"
doc_to_target: "{{{{answer}}}}"
doc_to_choice: "{{{{choices}}}}"
metric_list: [{{metric: acc}}, {{metric: acc_norm}}]
"""
ROLLING = """\
task: local_rolling
dataset_path: json
dataset_kwargs: {{data_files: {{test: {folder}/text.jsonl}}}}
test_split: test
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{{{text}}}}"
metric_list: [{{metric: word_perplexity}}, {{metric: byte_perplexity}}, {{metric: bits_per_byte}}]
"""
LAST_WORD = """\
task: local_last_word
dataset_path: json
dataset_kwargs: {{data_files: {{test: {folder}/text.jsonl}}}}
test_split: test
output_type: loglikelihood
doc_to_text: "{{{{text.split(' ')[:-1] | join(' ')}}}}"
doc_to_target: "{{{{' ' + text.split(' ')[-1]}}}}"
metric_list: [{{metric: perplexity, aggregation: perplexity}}, {{metric: acc}}]
"""
NAMES = ["local_choice", "local_rolling", "local_last_word"]


def write_tasks(folder: Path, *, documents: int = 24, words: int = 12, seed: int = 0) -> Path:
    """The folder for `--include-path`."""
    folder.mkdir(parents=True)
    draw = random.Random(seed)

    def text(count: int) -> str:
        return " ".join(draw.choices(WORDS, k=count))

    choices, texts = [], []
    for _ in range(documents):
        four = [" " + text(draw.randint(1, 4)) for _ in range(4)]
        choices.append({"question": text(words) + ":", "choices": four, "answer": draw.randrange(4)})
        texts.append({"text": text(draw.randint(3, 4 * words))})
    for name, lines in (("choice", choices), ("text", texts)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    for name, yaml in (("choice", CHOICE), ("rolling", ROLLING), ("last_word", LAST_WORD)):
        (folder / f"{name}.yaml").write_text(yaml.format(folder=folder))
    return folder
