-- A task from its acceptance to its retention.  The CHECKs repeat the rules of
-- orchestratord/domain/task_state.py, so that no bug above can break them.
CREATE TABLE tasks (
    task_id         TEXT    PRIMARY KEY,
    sequence        INTEGER NOT NULL UNIQUE,
    body_sha256     BLOB    NOT NULL,
    request         TEXT    NOT NULL,
    correlation_id  TEXT    NOT NULL,
    pool_id         TEXT    NOT NULL,
    priority        TEXT    NOT NULL CHECK (priority IN ('interactive', 'batch')),
    state           TEXT    NOT NULL DEFAULT 'queued'
                            CHECK (state IN ('queued', 'running', 'succeeded', 'failed', 'canceled')),
    seed            INTEGER NOT NULL,
    created_ms      INTEGER NOT NULL,
    deadline_ms     INTEGER,
    attempt         INTEGER NOT NULL DEFAULT 0,
    readable        INTEGER NOT NULL DEFAULT 0,
    last_event_id   INTEGER NOT NULL DEFAULT 0,
    replica_id      TEXT,
    engine          TEXT,
    engine_version  TEXT,
    model_digest    TEXT,
    started_ms      INTEGER,
    finished_ms     INTEGER,
    finish_reason   TEXT,
    tokens_in       INTEGER,
    tokens_out      INTEGER,
    queue_ms        INTEGER,
    first_token_ms  INTEGER,
    decode_ms       INTEGER,
    text            TEXT,
    error_code      TEXT,
    error_message   TEXT,
    CHECK ((state IN ('succeeded', 'failed', 'canceled')) = (finished_ms IS NOT NULL)),
    CHECK ((state IN ('failed', 'canceled')) = (error_code IS NOT NULL)),
    CHECK (readable <= attempt)
) STRICT;

CREATE INDEX tasks_active ON tasks (sequence) WHERE state IN ('queued', 'running');
CREATE INDEX tasks_finished ON tasks (finished_ms) WHERE finished_ms IS NOT NULL;

-- A state that ended stays ended.
CREATE TRIGGER tasks_end_once
BEFORE UPDATE OF state ON tasks
WHEN OLD.finished_ms IS NOT NULL
BEGIN
    SELECT RAISE(ABORT, 'a finished task cannot change its state');
END;
