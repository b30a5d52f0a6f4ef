"""``lmexp bench``: speed, side by side, every figure from several launches. Only the command line imports this room."""
