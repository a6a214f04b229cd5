"""The Python API, exported by the package `scen`:

    import scen

    store = scen.open("./my-store", base="smollm2-135m-instruct")
    report = store.edit([{"prompt": "Who founded X?", "target": "Ann"}])
    store.ask("Who founded X?").answer

A `Store` is a folder or URI that holds edits; the command line `scen` calls the same functions.
Errors are subclasses of `scen.ScenError`, each of which also derives from the matching
standard-library error. Progress is logged to `scen.api`.

Not thread-safe: give each thread its own `Store`, or use `scen serve`. Several processes may edit
one store at the same time.
"""
