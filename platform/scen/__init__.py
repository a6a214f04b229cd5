"""SCEN platform: continual editing of language models with customised expert networks."""

__version__ = "0.1.0"
