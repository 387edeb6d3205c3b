"""Transformers models: built (`build.py`), loaded (`loading.py`), wrapped for training and use, and exported."""
