"""What is minimised: distillation and task losses, and the constraints on cost."""
