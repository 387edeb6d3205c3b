"""Reads text, writes tokens to disk, and makes batches of them."""
