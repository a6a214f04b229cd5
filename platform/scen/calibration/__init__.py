"""Calibration: for a base, where keys are read, how they are compared and how experts are
trained."""
