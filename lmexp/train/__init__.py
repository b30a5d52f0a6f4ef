"""Training: what may be spent, the learning rate, the step and the loop."""
