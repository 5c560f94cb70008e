"""The command `llama-orch`.

Floor 3: it talks to the daemons over HTTP by the contracts, and starts them as
processes; it imports nothing of theirs.
"""
