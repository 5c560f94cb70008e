"""What makes two requests the same request."""

from __future__ import annotations

import hashlib
import json

from contracts.tasks import TaskRequest


def body_digest(request: TaskRequest) -> bytes:
    """SHA-256 over the fields that were sent, whatever their order and spacing."""
    fields = request.model_dump(mode="json", exclude_unset=True, exclude={"task_id"})
    canonical = json.dumps(fields, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(canonical.encode()).digest()
