-- Sessions and their budgets, and what a task holds of them.  Cost is counted in
-- billionths.  What a session holds is the sum of what its unfinished tasks hold.
CREATE TABLE sessions (
    session_id       TEXT    PRIMARY KEY,
    created_ms       INTEGER NOT NULL,
    expires_ms       INTEGER NOT NULL,
    ttl_ms           INTEGER NOT NULL,
    max_turns        INTEGER NOT NULL,
    turns            INTEGER NOT NULL DEFAULT 0 CHECK (turns >= 0),
    deleted          INTEGER NOT NULL DEFAULT 0 CHECK (deleted IN (0, 1)),
    tokens_limit     INTEGER,
    tokens_reserved  INTEGER NOT NULL DEFAULT 0 CHECK (tokens_reserved >= 0),
    tokens_spent     INTEGER NOT NULL DEFAULT 0 CHECK (tokens_spent >= 0),
    time_limit_ms    INTEGER,
    time_reserved_ms INTEGER NOT NULL DEFAULT 0 CHECK (time_reserved_ms >= 0),
    time_spent_ms    INTEGER NOT NULL DEFAULT 0 CHECK (time_spent_ms >= 0),
    cost_limit       INTEGER,
    cost_reserved    INTEGER NOT NULL DEFAULT 0 CHECK (cost_reserved >= 0),
    cost_spent       INTEGER NOT NULL DEFAULT 0 CHECK (cost_spent >= 0),
    replica_id       TEXT,
    slot             INTEGER,
    pid              INTEGER,
    kv_warmth        REAL    NOT NULL DEFAULT 0
) STRICT;

-- Nothing may be held past a limit.  It is no CHECK, because a limit may be lowered
-- below what is spent already; and it looks at holds only, because an end must
-- always be written: what a task is charged was held before.
CREATE TRIGGER sessions_within_limits
BEFORE UPDATE ON sessions
WHEN (NEW.tokens_reserved > OLD.tokens_reserved
      AND NEW.tokens_reserved + NEW.tokens_spent > NEW.tokens_limit)
  OR (NEW.time_reserved_ms > OLD.time_reserved_ms
      AND NEW.time_reserved_ms + NEW.time_spent_ms > NEW.time_limit_ms)
  OR (NEW.cost_reserved > OLD.cost_reserved
      AND NEW.cost_reserved + NEW.cost_spent > NEW.cost_limit)
BEGIN
    SELECT RAISE(ABORT, 'a budget would be overspent');
END;

ALTER TABLE tasks ADD COLUMN session_id TEXT;
ALTER TABLE tasks ADD COLUMN held_tokens INTEGER NOT NULL DEFAULT 0;
ALTER TABLE tasks ADD COLUMN held_time_ms INTEGER NOT NULL DEFAULT 0;
ALTER TABLE tasks ADD COLUMN held_cost INTEGER NOT NULL DEFAULT 0;
ALTER TABLE tasks ADD COLUMN prompt_tokens INTEGER NOT NULL DEFAULT 1;
ALTER TABLE tasks ADD COLUMN predicted_start_ms INTEGER;
ALTER TABLE tasks ADD COLUMN resets INTEGER NOT NULL DEFAULT 0;
ALTER TABLE tasks ADD COLUMN interruptions INTEGER NOT NULL DEFAULT 0;
ALTER TABLE tasks ADD COLUMN cached_tokens INTEGER;

CREATE INDEX tasks_of_session ON tasks (session_id, sequence) WHERE session_id IS NOT NULL;
