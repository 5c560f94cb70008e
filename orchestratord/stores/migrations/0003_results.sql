-- Answers that are no text, and how the tokens of a task are picked: as JSON, resolved
-- when it was accepted, so that a profile that is gone by then changes no task.
ALTER TABLE tasks ADD COLUMN result TEXT;
ALTER TABLE tasks ADD COLUMN sampling TEXT NOT NULL DEFAULT '{}';
ALTER TABLE tasks ADD COLUMN sampler_profile_version TEXT;
