"""Edits in the formats of other tools: LoRA adapters for PEFT, logged models for MLflow."""
