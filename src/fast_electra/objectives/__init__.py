"""What a run trains: the losses. `base.py` has the interface to the training loop, `settings.py` the kinds."""
