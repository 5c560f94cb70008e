"""What the daemons, the command and the workers say to each other.

Floor 0: the standard library and pydantic only.  Nothing here does I/O or
reads a clock; `contracts.service` (floor one half) is the only part that knows
HTTP.
"""
