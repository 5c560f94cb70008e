"""The statements of the table of tasks; each change names the state it expects."""

INSERT = """
INSERT INTO tasks (task_id, sequence, body_sha256, request, correlation_id, pool_id,
                   priority, seed, created_ms, deadline_ms, session_id, held_tokens,
                   held_time_ms, held_cost, prompt_tokens, predicted_start_ms,
                   sampling, sampler_profile_version)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
"""
START = """
UPDATE tasks
SET state = 'running', attempt = ?, replica_id = ?, engine = ?, engine_version = ?,
    model_digest = ?, started_ms = ?, last_event_id = ?
WHERE task_id = ? AND state = 'queued' AND attempt < ?
"""
READABLE = """
UPDATE tasks SET readable = ?, last_event_id = max(last_event_id, ?)
WHERE task_id = ? AND state = 'running' AND attempt = ?
"""
REQUEUE = """
UPDATE tasks SET state = 'queued', last_event_id = ?, resets = ?
WHERE task_id = ? AND state = 'running' AND attempt = ? AND readable = 0
"""
INTERRUPTED = """
UPDATE tasks SET state = 'queued', interruptions = interruptions + 1
WHERE task_id = ? AND state = 'running' AND attempt = ? AND readable = 0
"""
LAST_EVENT = "UPDATE tasks SET last_event_id = ? WHERE task_id = ? AND state = 'queued'"
FINISH = """
UPDATE tasks
SET state = ?, finished_ms = ?, last_event_id = ?, text = ?, tokens_out = ?, tokens_in = ?,
    cached_tokens = ?, finish_reason = ?, queue_ms = ?, first_token_ms = ?, decode_ms = ?,
    error_code = ?, error_message = ?, result = CAST(? AS TEXT)
WHERE task_id = ? AND finished_ms IS NULL
"""
RESERVE = """
UPDATE tasks SET last_event_id = max(last_event_id, ?) WHERE task_id = ? AND finished_ms IS NULL
"""
UNFINISHED = "SELECT * FROM tasks WHERE state IN ('queued', 'running') ORDER BY sequence"
# A page leaves out what is large: prompts, schemas and answers.
_SHOWN = """
SELECT task_id, sequence, correlation_id, pool_id, priority, state, seed, created_ms, attempt,
    replica_id, engine, engine_version, model_digest, started_ms, finished_ms, finish_reason,
    tokens_in, tokens_out, queue_ms, first_token_ms, decode_ms, error_code, error_message,
    sampler_profile_version, NULL AS text, NULL AS result,
    json_remove(
        request, '$.prompt', '$.messages', '$.inputs', '$.json_schema', '$.grammar'
    ) AS request
FROM tasks
WHERE (:state IS NULL OR state = :state) AND (:before IS NULL OR sequence < :before)
"""
_NEWEST_FIRST = " ORDER BY sequence DESC LIMIT :limit"
PAGE = _SHOWN + _NEWEST_FIRST
PAGE_OF_SESSION = _SHOWN + " AND session_id = :session" + _NEWEST_FIRST
DELETE = """
DELETE FROM tasks WHERE task_id IN (
    SELECT task_id FROM tasks WHERE finished_ms < ? ORDER BY finished_ms LIMIT ?
)
"""
