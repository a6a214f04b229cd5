"""The command line `scen`."""
