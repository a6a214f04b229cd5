"""The inner loops of both stages, over the editor's parts; plain torch."""
