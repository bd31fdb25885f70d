"""Pages of the site that are written while it is built: commands, Python API, model cards, schema of the manifest."""
