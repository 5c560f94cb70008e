"""The project's generated model in the layouts of other engines."""
