"""fast-electra: pre-train text encoders with a frozen auxiliary model and a falling temperature."""

__version__ = "0.2.0"
