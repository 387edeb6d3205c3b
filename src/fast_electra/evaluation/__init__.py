"""Measures of what a model has learnt."""
