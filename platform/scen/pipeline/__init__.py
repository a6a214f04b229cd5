"""Operations on a store: edit, forecast, evaluate, drain, rebase, roll back, register.

The Python API, the command line and the jobs call the same functions. `run_wave` runs one wave,
`local` and `scen.cluster.parts` implement its steps, `stream` and `apply` feed it edits.
"""
