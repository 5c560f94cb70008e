"""Whether a file may be used as the database, and its way to the schema of this version.

The checks read, and leave every byte of the database and its log as it was.  A
connection that can write moves the log into the file when it is the last to close,
so one that cannot is open around it.  A flipped bit in a number of a row is not
found: SQLite keeps no checksums of its own.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from contracts.service.daemon import StateDamaged
from orchestratord.errors import StorageBusy, StorageFull
from orchestratord.stores.disk_reserve import DiskReserve, reserve_path
from orchestratord.stores.write_ahead_log import log_damage, log_path

BUSY_TIMEOUT_S = 2.0
LOG_PAGES_MAX = 256
"""The log goes into the file after so many pages, 1 MiB: no slower than after SQLite's 1,000."""
LOG_BYTES_KEPT = 1024 * 1024

_HEADER_BYTES = 100
"""Of a database file: https://www.sqlite.org/fileformat.html#the_database_header"""
_MIGRATIONS = Path(__file__).with_name("migrations")
_REMEDY = "restore a backup or move it away"
_BUSY_CODES = frozenset({sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED})
_NO_ROOM_CODES = frozenset(
    {
        *(sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_WRITE, sqlite3.SQLITE_IOERR_FSYNC),
        *(sqlite3.SQLITE_IOERR_SHMSIZE, sqlite3.SQLITE_IOERR_SHMOPEN, sqlite3.SQLITE_IOERR_SHMMAP),
    }
)
"""Extended codes; the shared memory of the log is a file too."""


def make_ready(path: Path, reserve: DiskReserve) -> None:
    """Check the file or make it, bring it to this version, and keep room back beside it.

    A disk that is full already gets the room that an earlier run kept back.

    Raises:
        StateDamaged: the file is not whole, not ours, or of a newer version; it is
            as it was.
        StorageBusy: another process holds it.
        StorageFull: there is no room to open it.
    """
    try:
        _migrate(path, _checked_version(path))
    except StorageFull:
        reserve.spend()
        _migrate(path, _checked_version(path))
    reserve.look()


def configure(connection: sqlite3.Connection) -> None:
    """How the writing connection commits: to a short log that is synced each time."""
    connection.row_factory = sqlite3.Row
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute(f"PRAGMA wal_autocheckpoint = {LOG_PAGES_MAX}")
    connection.execute(f"PRAGMA journal_size_limit = {LOG_BYTES_KEPT}")
    connection.execute("PRAGMA temp_store = MEMORY")


def _checked_version(path: Path) -> int:
    """The schema version of a file that is whole; 0 for one that is yet to be made."""
    if _is_absent(path):
        return 0
    damage = log_damage(path) or _cut(path)
    if damage is not None:
        raise StateDamaged(damage)
    try:
        _roll_back_journal(path)
        with closing(_connected(_only_reading(path), uri=True)) as outer:
            version = _known_version(outer, path)
            # A connection that only reads takes a schema that one that writes refuses.
            with closing(_connected(path)) as connection:
                _read_all(connection, path, version)
    except sqlite3.DatabaseError as error:
        raise _told(path, error) from error
    except UnicodeDecodeError as error:  # of a row, or of SQLite's own words on the schema
        raise StateDamaged(f"{path}: a text in it is not UTF-8; {_REMEDY}") from error
    return version


def _is_absent(path: Path) -> bool:
    """Whether there is no database yet; one that was emptied is not absent."""
    if path.exists() and path.stat().st_size > 0:
        return False
    log = log_path(path)
    if log.exists() and log.stat().st_size > 0:
        raise StateDamaged(f"{path}: empty, while {log} holds writes; {_REMEDY} with its log")
    traces = [reserve_path(path), *sorted(path.parent.glob(f"{path.name}.v*"))]
    trace = next((trace for trace in traces if trace.exists()), None)
    if path.exists() and trace is not None:
        raise StateDamaged(
            f"{path}: empty, while {trace} shows that it was not; restore a backup, or remove"
            f" {path} to begin anew"
        )
    return True


def _cut(path: Path) -> str | None:
    """One line where the file ends within a page, and no log tells the rest of it.

    SQLite reads what is missing of a last page as zeros, and so another number
    where a row ended there.  A kill during a write can leave such an end too, but
    then the page is still in the log, or in the journal of the very first write.
    """
    tellers = (log_path(path), _journal_path(path))
    if any(teller.exists() and teller.stat().st_size > 0 for teller in tellers):
        return None
    with path.open("rb") as file:
        header = file.read(_HEADER_BYTES)
    page_bytes = int.from_bytes(header[16:18], "big")
    page_bytes = 65_536 if page_bytes == 1 else page_bytes
    if len(header) == _HEADER_BYTES and page_bytes and path.stat().st_size % page_bytes == 0:
        return None
    return f"{path}: its end is cut off; {_REMEDY}"


def _only_reading(path: Path) -> str:
    """The URI of a connection that writes nothing: without a log no index beside it either."""
    log = log_path(path)
    whole = not log.exists() or log.stat().st_size == 0
    return f"{path.absolute().as_uri()}?mode=ro{'&immutable=1' if whole else ''}"


def _journal_path(path: Path) -> Path:
    return path.with_name(f"{path.name}-journal")


def _roll_back_journal(path: Path) -> None:
    """Finish what a kill left half done before the file had a log: its very first write."""
    if _journal_path(path).exists():
        with closing(_connected(path)) as connection:
            connection.execute("SELECT * FROM sqlite_schema").fetchall()


def _known_version(connection: sqlite3.Connection, path: Path) -> int:
    version: int = connection.execute("PRAGMA user_version").fetchone()[0]
    known = len(_steps())
    if version > known:
        raise StateDamaged(
            f"{path}: written by a newer version (schema {version}, this one knows {known});"
            " install that version or move the file away"
        )
    return version


def _read_all(connection: sqlite3.Connection, path: Path, version: int) -> None:
    """Read every page and every row, so that what cannot be read is found now."""
    connection.execute("PRAGMA query_only = ON")
    connection.text_factory = lambda text: str(text, "utf-8")
    tables = connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'").fetchall()
    if version < 0 or (version == 0) != (not tables):
        raise StateDamaged(f"{path}: schema {version} is none of ours; {_REMEDY}")
    verdict = connection.execute("PRAGMA integrity_check(1)").fetchone()[0]
    if verdict != "ok":
        raise StateDamaged(f"{path}: {' '.join(verdict.split())}; {_REMEDY}")
    for (table,) in tables:
        for _ in connection.execute(f'SELECT * FROM "{table}"'):  # noqa: S608  (our own names)
            pass
    garbled = "SELECT count(*) FROM tasks WHERE NOT json_valid(request)"
    if version > 0 and connection.execute(garbled).fetchone()[0]:
        raise StateDamaged(f"{path}: a request in it is not JSON; {_REMEDY}")


def _migrate(path: Path, version: int) -> None:
    steps = _steps()
    if version == len(steps):
        return
    try:
        with closing(_connected(path)) as connection:
            configure(connection)
            if version > 0:
                _back_up(connection, path.with_name(f"{path.name}.v{version}"))
            for number, step in enumerate(steps[version:], start=version + 1):
                connection.executescript(
                    f"BEGIN;\n{step.read_text()}\nPRAGMA user_version = {number};\nCOMMIT;"
                )
    except sqlite3.DatabaseError as error:
        raise _told(path, error) from error


def _steps() -> list[Path]:
    return sorted(_MIGRATIONS.glob("*.sql"))


def _back_up(connection: sqlite3.Connection, target: Path) -> None:
    with closing(sqlite3.connect(target)) as copy:
        connection.backup(copy)


def _connected(path: Path | str, *, uri: bool = False) -> sqlite3.Connection:
    return sqlite3.connect(path, isolation_level=None, timeout=BUSY_TIMEOUT_S, uri=uri)


def _told(path: Path, error: sqlite3.DatabaseError) -> Exception:
    """What is wrong, in our words."""
    code = getattr(error, "sqlite_errorcode", 0)
    if code & 0xFF in _BUSY_CODES:
        return StorageBusy()
    if code in _NO_ROOM_CODES:
        return StorageFull()
    if code & 0xFF == sqlite3.SQLITE_CANTOPEN:
        return StateDamaged(f"{path}: {error}; it must be a file this user can write")
    return StateDamaged(f"{path}: {error}; {_REMEDY}")
