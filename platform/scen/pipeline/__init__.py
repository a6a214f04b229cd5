"""What is done with a store as a whole: edit, forecast, measure, drain, re-base, guard, register.

The Python API, the command line and the jobs call the same functions here.
"""
