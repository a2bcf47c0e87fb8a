"""The log: plain lines for people, or one JSON object a line for programs. No key, and no text of a caller."""

from __future__ import annotations

import json
import logging
import re
import sys
import time

FORMATS = ("text", "json")
LEVELS = ("debug", "info", "warning", "error")
_CONTROL = re.compile("[\x00-\x08\x0a-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")  # but for the tab
_PASSWORD = re.compile(r"(?<=://)[^/@\s]*@")  # with its user, in an address that somebody's error quotes


class TextLines(logging.Formatter):
    """The message alone, as one line: whatever came into it from outside cannot look like a line of ours."""

    def format(self, record: logging.LogRecord) -> str:
        return _PASSWORD.sub("***@", super().format(record))

    def formatMessage(self, record: logging.LogRecord) -> str:
        return _CONTROL.sub(lambda match: repr(match[0])[1:-1], record.message)


class JsonLines(logging.Formatter):
    """One object a line: time, level, logger, message, and the fields that came as `extra={"fields": …}`."""

    def format(self, record: logging.LogRecord) -> str:
        entry = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{record.msecs:03.0f}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        entry |= getattr(record, "fields", {})
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        line = json.dumps(entry, ensure_ascii=False).encode("utf-8", "replace").decode()
        return _PASSWORD.sub("***@", line)


class Outage:
    """Something that fails again and again, such as a full disk: one line when it begins, one when it is over.

    Args:
        over: the line for its end.
    """

    def __init__(self, log: logging.Logger, over: str):
        self._log, self._over = log, over
        self.is_on = False

    def begin(self, sentence: str) -> None:
        """Logged once, however often it is said until the end."""
        if not self.is_on:
            self._log.error("%s", sentence)
        self.is_on = True

    def end(self) -> None:
        """It works (again)."""
        if self.is_on:
            self._log.warning("%s", self._over)
        self.is_on = False


def set_up(log_format: str, level: str) -> None:
    """Log to stderr; once, at the start of the process."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines() if log_format == "json" else TextLines())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    for noisy in ("alembic", "httpx", "urllib3", "mlflow"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    # it counts every retry; what failed in the end is said once, by who asked
    logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)
