"""Training: the process of one worker, from its resolved config to the trained model."""
