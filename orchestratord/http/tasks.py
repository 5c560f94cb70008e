"""POST, GET, stream and cancel of tasks."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from contracts.config import Config
from contracts.errors import ErrorCode, Refusal
from contracts.ids import UUID_PATTERN, is_uuid, new_uuid
from contracts.service.drain import Drain
from contracts.service.envelope import contract_response, correlation_id
from contracts.service.json_body import read_contract
from contracts.service.routes import EVENT_STREAM, ApiRoute, Operation, Parameter, Scope, Success
from contracts.tasks import Admission, TaskPage, TaskRequest, TaskState, TaskView
from orchestratord.errors import LogGone, ShuttingDown
from orchestratord.http.query import LIMIT, bad_query, page_limit, whole_number
from orchestratord.http.sse import LogResponse, resume_point
from orchestratord.http.task_view import stream_url, task_response, task_view
from orchestratord.runtime.admissions import Accepted, Admissions
from orchestratord.runtime.dispatcher import Dispatcher
from orchestratord.runtime.event_log import EventLog
from orchestratord.runtime.log_shelf import LogShelf
from orchestratord.runtime.task_history import TaskHistory


class TaskRoutes:
    """The task API over the way in, the tasks under way, and their history."""

    def __init__(
        self,
        admissions: Admissions,
        dispatcher: Dispatcher,
        shelf: LogShelf,
        history: TaskHistory,
        config: Config,
        drain: Drain,
    ) -> None:
        self._admissions = admissions
        self._dispatcher = dispatcher
        self._shelf = shelf
        self._history = history
        self._config = config
        self._drain = drain

    async def post(self, request: Request) -> Response:
        """Accept a task: 202, or its stream at once where the client accepts one.

        Every answer names the task, also a refusal: it is the id to look for
        in the logs, and the one to repeat when no answer arrived.
        """
        headers = {"X-Task-Id": new_uuid()}
        try:
            body = await read_contract(request, TaskRequest, self._config.limits)
            if self._drain.begun:
                raise ShuttingDown
            headers["X-Task-Id"] = task_id = body.task_id or headers["X-Task-Id"]
            accepted = await self._admissions.submit(body, correlation_id(request), task_id)
        except Refusal as refusal:
            refusal.headers = headers
            raise
        headers |= _figures(accepted)
        log = self._shelf.get(accepted.task_id)
        if log is not None and self._may_follow(request, log):
            return self._follow(log, 0, headers)
        return contract_response(_admission(accepted), 202, headers)

    async def get(self, request: Request) -> Response:
        """One task as of now."""
        task = await self._history.get(_task_id(request))
        return task_response(task)

    async def page(self, request: Request) -> Response:
        """Tasks, newest first."""
        query = request.query_params
        limit = page_limit(query)
        before = whole_number("cursor", query.get("cursor"), 10**15)
        state, session_id = _state(query.get("state")), _session_id(query.get("session_id"))
        page = await self._history.page(state, session_id, before, limit)
        views = tuple(task_view(task) for task in page.tasks)
        cursor = None if page.next_before is None else str(page.next_before)
        return contract_response(TaskPage(items=views, next_cursor=cursor))

    async def stream(self, request: Request) -> Response:
        """The events of a task, from the beginning or after Last-Event-ID."""
        task_id = _task_id(request)
        log = self._shelf.get(task_id)
        if log is None:
            # One that is just arriving has a row, and its log a moment later.
            await self._dispatcher.find_arrived(task_id)
            log = self._shelf.get(task_id)
        if log is None:
            await self._history.get(task_id)
            raise LogGone(task_id)
        return self._follow(log, resume_point(request, task_id, log), {"X-Task-Id": task_id})

    async def cancel(self, request: Request) -> Response:
        """End a task; after the 204 no token follows."""
        await self._dispatcher.cancel(_task_id(request))
        return Response(status_code=204)

    def _may_follow(self, request: Request, log: EventLog) -> bool:
        """The task is accepted, so a stream that cannot be had is no refusal: 202 says where."""
        wanted = EVENT_STREAM in request.headers.get("accept", "")
        return wanted and log.keeps_all_after(0) and not self._drain.is_full

    def _follow(self, log: EventLog, after_id: int, headers: dict[str, str]) -> Response:
        return LogResponse(log, after_id, self._drain, self._config.streams, headers)

    def routes(self) -> list[ApiRoute]:
        """The routes and what they promise."""
        return [
            ApiRoute("POST", "/v1/tasks", self.post, scope=Scope.API, operation=_POST),
            ApiRoute("GET", "/v1/tasks", self.page, scope=Scope.API, operation=_PAGE),
            ApiRoute("GET", "/v1/tasks/{task_id}", self.get, scope=Scope.API, operation=_GET),
            ApiRoute(
                "GET", "/v1/tasks/{task_id}/stream", self.stream, scope=Scope.API, operation=_STREAM
            ),
            ApiRoute(
                "POST",
                "/v1/tasks/{task_id}/cancel",
                self.cancel,
                scope=Scope.API,
                operation=_CANCEL,
            ),
        ]


def _admission(accepted: Accepted) -> Admission:
    return Admission(
        task_id=accepted.task_id,
        state=accepted.state,
        queue_position=accepted.queue_position,
        predicted_start_ms=accepted.predicted_start_ms,
        backoff_ms=accepted.backoff_ms,
        stream_url=stream_url(accepted.task_id),
    )


def _figures(accepted: Accepted) -> dict[str, str]:
    """What the body says too, and what is left of the session's budgets where they have a limit."""
    budgets = accepted.budgets
    figures: dict[str, float | None] = {
        "X-Queue-Position": accepted.queue_position,
        "X-Predicted-Start-Ms": accepted.predicted_start_ms,
    }
    if budgets is not None:
        figures["X-Budget-Tokens-Remaining"] = budgets.tokens.remaining
        figures["X-Budget-Time-Remaining-Ms"] = budgets.time_ms.remaining
        figures["X-Budget-Cost-Remaining"] = budgets.cost.remaining
    return {name: _decimal(value) for name, value in figures.items() if value is not None}


def _decimal(value: float) -> str:
    """A number without an exponent."""
    return str(value) if isinstance(value, int) else f"{value:.9f}".rstrip("0").rstrip(".")


def _task_id(request: Request) -> str:
    """The id in the path, lower case; what is no UUID is the id of no task."""
    text: str = request.path_params["task_id"]
    if not is_uuid(text):
        raise Refusal(ErrorCode.NOT_FOUND, "a task id is a UUID; this is none")
    return text.lower()


def _state(text: str | None) -> TaskState | None:
    if text is None:
        return None
    try:
        return TaskState(text)
    except ValueError:
        raise bad_query("state", f"must be one of {', '.join(TaskState)}") from None


def _session_id(text: str | None) -> str | None:
    if text is None:
        return None
    if not is_uuid(text):
        raise bad_query("session_id", "a session id is a UUID")
    return text.lower()


_TASK_ID = Parameter("task_id", "The task.", {"type": "string", "pattern": UUID_PATTERN})
_X_TASK_ID = Parameter("X-Task-Id", "The task.", {"type": "string", "pattern": UUID_PATTERN})
_COUNT = {"type": "integer", "minimum": 0}
_POST = Operation(
    "postTask",
    "Accept a task; with Accept: text/event-stream its stream is the answer.",
    request=TaskRequest,
    response=Admission,
    status=202,
    errors=(
        ErrorCode.MODEL_UNKNOWN,
        ErrorCode.CONTEXT_EXCEEDED,
        ErrorCode.CONFLICT,
        ErrorCode.DEADLINE_UNMET,
        ErrorCode.SESSION_TURNS_EXHAUSTED,
        ErrorCode.BUDGET_EXHAUSTED,
        ErrorCode.ADMISSION_REJECT,
        ErrorCode.QUEUE_FULL,
        ErrorCode.POOL_UNREADY,
        ErrorCode.POOL_UNAVAILABLE,
        ErrorCode.POOL_DRAINING,
        ErrorCode.STORAGE_BUSY,
        ErrorCode.STORAGE_FULL,
        ErrorCode.SHUTTING_DOWN,
    ),
    headers=(
        _X_TASK_ID,
        Parameter("X-Queue-Position", "Tasks ahead.", _COUNT),
        Parameter("X-Predicted-Start-Ms", "Milliseconds from now, once a rate is known.", _COUNT),
        Parameter("X-Budget-Tokens-Remaining", "Of its session, where limited.", _COUNT),
        Parameter("X-Budget-Time-Remaining-Ms", "Of its session, where limited.", _COUNT),
        Parameter(
            "X-Budget-Cost-Remaining",
            "Of its session, where limited.",
            {"type": "number", "minimum": 0},
        ),
    ),
    also=(Success(200, media_type=EVENT_STREAM, description="The stream of the task."),),
)
_PAGE = Operation(
    "listTasks",
    "Tasks, newest first.",
    response=TaskPage,
    query=(
        Parameter("state", "Only this state.", {"type": "string", "enum": list(TaskState)}),
        Parameter("session_id", "Only this session.", {"type": "string", "pattern": UUID_PATTERN}),
        LIMIT,
        Parameter(
            "cursor",
            "`next_cursor` of the page before.",
            {"type": "string", "pattern": "^[1-9][0-9]{0,14}$"},
        ),
    ),
)
_GET = Operation(
    "getTask",
    "One task as of now.",
    response=TaskView,
    errors=(ErrorCode.NOT_FOUND,),
    path=(_TASK_ID,),
)
_STREAM = Operation(
    "streamTask",
    "The events of a task.",
    media_type=EVENT_STREAM,
    errors=(ErrorCode.NOT_FOUND, ErrorCode.GONE),
    path=(_TASK_ID,),
    request_headers=(
        Parameter(
            "Last-Event-ID", "Resume after this event.", {"type": "string", "pattern": "^[0-9]+$"}
        ),
    ),
    headers=(_X_TASK_ID,),
)
_CANCEL = Operation(
    "cancelTask",
    "End a task, queued, running or finished.",
    status=204,
    errors=(ErrorCode.NOT_FOUND, ErrorCode.STORAGE_BUSY),
    path=(_TASK_ID,),
)
