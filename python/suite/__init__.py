"""Suite: train families of small language models, and learn from them."""

__version__ = "0.1.0"
