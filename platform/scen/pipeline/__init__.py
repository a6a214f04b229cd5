"""Operations on a whole store: edit, preview, evaluate, drain, re-base, roll back, register.

The Python API, the command line and the jobs call the same functions. `run_wave` is one wave,
`local` and `scen.cluster.parts` hold its steps, `stream` and `apply` feed it with edits.
"""
