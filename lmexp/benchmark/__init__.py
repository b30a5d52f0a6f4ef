"""Generation against the clock: how fast, how much memory, how long a sequence fits. Imports nothing heavy."""
