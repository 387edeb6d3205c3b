"""The method of the paper. Start with `replacement.py`, which lists its steps and the file of each."""
