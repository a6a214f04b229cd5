"""The Python API. Its names are those of the package:

    import scen

    store = scen.open("./my-store", base="smollm2-135m-instruct")
    report = store.edit([{"prompt": "Who founded X?", "target": "Ann"}])
    store.ask("Who founded X?").answer

A `Store` is a folder or URI that holds edits; what it does, `scen` does on the command line by the
same functions. Errors are `scen.ScenError` and its kinds, each of which is also the error of the
standard library that one would expect. Progress goes to the logger `scen.api`.

Not thread-safe: give each thread a `Store` of its own, or use `scen serve`. Several processes may
edit one store at the same time.
"""
