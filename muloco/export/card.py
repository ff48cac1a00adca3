"""The README of an exported model."""

import json

from muloco.model.architecture import HuggingFaceForm
from muloco.runs.folder import read_metrics
from muloco.settings.stored import to_dict
from muloco.training.trained import Trained

_CARD = """\
---
library_name: transformers
pipeline_tag: text-generation
tags: [muloco]
---

# {name}

{description} ({parameters:,} parameters),
trained by muloco with {method}. transformers loads it as {loading}:

    from transformers import AutoModelForCausalLM, AutoTokenizer
    model = AutoModelForCausalLM.from_pretrained("FOLDER")
    tokenizer = AutoTokenizer.from_pretrained("FOLDER")

| | |
|---|---|
| flavor | `{flavor}` |
| step | {step:,} of {steps:,} |
| tokens | {tokens:,}, by all workers |
| sequence length | {seq_len} |
| data | {data} |
{loss}
Documents began with BOS and ended with EOS in training; text becomes tokens as tokenizer.json says.

{notes}<details><summary>The run's config</summary>

```json
{config}
```

</details>
"""


def card(trained: Trained, form: HuggingFaceForm) -> str:
    """Markdown."""
    config, training = trained.config, trained.config.training
    method: str = config.optimizer.name
    if config.syncs:
        ft = config.fault_tolerance
        method += f" in {config.workers} workers by {ft.semi_sync_method}, which sync every {ft.sync_steps} steps"
    losses = [
        line["validation_loss"]
        for line in read_metrics(trained.run)
        if line["step"] == trained.step and "validation_loss" in line
    ]
    return _CARD.format(
        name=trained.name,
        description=form.description,
        loading=form.loading,
        notes=form.notes,
        parameters=trained.flavor.parameters,
        method=method,
        flavor=trained.flavor.name,
        step=trained.step,
        steps=training.steps,
        tokens=trained.step * config.tokens_per_step,
        seq_len=training.seq_len,
        data=", ".join(config.data.sources),
        loss=f"| held-out loss | {losses[0]:.4f} nats a token |\n" if losses else "",
        config=json.dumps(to_dict(config), indent=2),
    )
