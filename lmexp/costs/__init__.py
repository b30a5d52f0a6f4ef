"""What generation costs: how fast, how much memory, how long a sequence fits. Imports nothing heavy."""
