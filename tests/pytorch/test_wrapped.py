"""MuLoCo1 inside the wrappers of other libraries: the numbers of a plain loop, and the anchor within reach."""

import importlib.util

import pytest
import torch
from accelerate import Accelerator
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments

from muloco.pytorch import MuLoCo1

from .toy import assert_same, build_model, loss_of, train, weights


def test_accelerate_reaches_the_anchor_and_flushes():
    model, other = build_model(), build_model()
    plain = MuLoCo1(other, sync_interval=3)
    train(other, plain, 4)

    accelerator = Accelerator(cpu=True)
    optimizer = MuLoCo1(model, sync_interval=3)
    prepared_model, prepared = accelerator.prepare(model, optimizer)
    assert prepared.optimizer is optimizer
    for step in range(4):
        prepared.zero_grad()
        accelerator.backward(loss_of(prepared_model, step))
        prepared.step()
    assert_same(weights(model), weights(other))
    with prepared.optimizer.anchor_weights(), plain.anchor_weights():
        assert_same(weights(model), weights(other))
    prepared.load_state_dict(prepared.state_dict())
    prepared.optimizer.flush()
    plain.flush()
    assert_same(weights(model), weights(other))


def test_the_trainer_evaluates_at_the_anchor(tmp_path):
    """In the first window that is where training began."""
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(vocab_size=32, **sizes))
    data = [{"input_ids": text, "labels": text} for text in (torch.arange(8) + torch.arange(24)[:, None]) % 32]
    optimizer = MuLoCo1(model, sync_interval=4)

    class AtAnchor(Trainer):
        def evaluate(self, *args, **kwargs):
            with optimizer.anchor_weights():
                return super().evaluate(*args, **kwargs)

    arguments = TrainingArguments(
        str(tmp_path),
        max_steps=6,
        eval_strategy="steps",
        eval_steps=3,
        report_to="none",
        save_strategy="no",
        use_cpu=True,
    )
    trainer = AtAnchor(model, arguments, train_dataset=data, eval_dataset=data[:8], optimizers=(optimizer, None))
    before = trainer.evaluate()["eval_loss"]
    trainer.train()
    assert trainer.optimizer.optimizer is optimizer
    third, sixth = (line["eval_loss"] for line in trainer.state.log_history if "eval_loss" in line)
    assert third == before and sixth < before
    local = Trainer.evaluate(trainer)["eval_loss"]
    assert local != sixth, "the window is not over"
    optimizer.flush()
    assert trainer.evaluate()["eval_loss"] == Trainer.evaluate(trainer)["eval_loss"]


@pytest.mark.skipif(importlib.util.find_spec("lightning") is None, reason="needs lightning")
def test_lightning_reaches_the_anchor():
    import lightning

    class Module(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.model = build_model()

        def configure_optimizers(self):
            return MuLoCo1(self.model, sync_interval=3)

        def training_step(self, batch, index):
            return loss_of(self.model, index)

    module, other = Module(), build_model()
    plain = MuLoCo1(other, sync_interval=3)
    quiet = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    trainer = lightning.Trainer(accelerator="cpu", max_epochs=1, **quiet)
    trainer.fit(module, torch.utils.data.DataLoader(torch.arange(4)))
    train(other, plain, 4)
    optimizer = module.optimizers(use_pl_optimizer=False)
    with optimizer.anchor_weights(), plain.anchor_weights():
        assert_same(weights(module.model), weights(other))
    optimizer.flush()
    plain.flush()
    assert_same(weights(module.model), weights(other))
