"""Every engine behind one face: how it is launched, asked and understood.

Floor 1: imports `contracts` and aiohttp only.  Nothing here knows of tasks,
queues or pools; a new engine is one file and one line in `registry`.
"""
