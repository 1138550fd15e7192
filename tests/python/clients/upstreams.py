"""Modes of the fake upstream server, by what a client gets through the fleet."""

# One text, in forms that differ from OpenAI's.
TEXT = "Hello from upstream."
TEXT_MODES = [
    "ok",
    "nulls",
    "content-parts",
    "ignores-stream",
    "no-finish",
    "no-done",
    "drop-after-finish",
    "unknown-finish",
    "pause-300",
]

# Two calls of the first tool, with these arguments.
CITIES = [{"city": "Rome"}, {"city": "Oslo"}]
CALL_MODES = ["no-call-index", "calls-from-one", "no-call-id", "ignores-stream-calls"]

# An error with this status, before anything of the answer.
ERROR_MODES = {
    "bad-json": 502,
    "html-error": 502,
    "status-503": 503,
    "retry-seconds-429": 429,
    "context-length": 400,
}

# An answer that breaks off after a part of it. Unstreamed, it is an error with the status 502.
BROKEN_MODES = ["drop-in-answer", "error-in-answer"]
