"""PyTorch: models, augmentation, training, pruning, distillation, checkpoints."""
