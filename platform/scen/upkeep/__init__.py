"""The upkeep of a store: is all of it there and sound, and what of it is needed no more?"""
