"""Zero-shot evaluation by lm-eval, of checkpoints and of the anchor while it is trained."""
