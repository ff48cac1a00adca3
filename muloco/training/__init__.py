"""From a config to a trained model: Config and resolve, the Trainer, metrics, checkpoints. One worker at a time."""
