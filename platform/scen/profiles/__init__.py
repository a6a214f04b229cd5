"""Profiles of bases that were calibrated; `scen calibrate` makes more."""
