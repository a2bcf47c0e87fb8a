"""PostgreSQL as the backend store: is it there, and does it let us in? MLflow does the rest.

Asked before MLflow is: it would try again and again for minutes, and its message has the address in it.
"""

from __future__ import annotations

import re
from importlib.util import find_spec

from genai_lifecycle.errors import ConfigError, TrackingUnavailable
from genai_lifecycle.runtime.addresses import without_password

PATIENCE_S = 5  # to connect
_LONGEST_ARTIFACT_URI = 200  # the column of MLflow's table `runs`; SQLite does not mind, PostgreSQL does
_RUN_PART = len("/") + 32 + len("/artifacts")  # what MLflow adds to an experiment's location for a run


def is_postgresql(uri: str) -> bool:
    return re.match(r"postgresql(\+\w+)?://", uri) is not None


def check(uri: str) -> None:
    """Connect once and ask whether we may make tables.

    Raises:
        ConfigError: the driver is not installed, or the address cannot be read.
        TrackingUnavailable: the server does not answer, or does not let us in; never with the password.
    """
    _require_driver(uri)
    from sqlalchemy import create_engine, text
    from sqlalchemy.exc import ArgumentError, SQLAlchemyError
    from sqlalchemy.pool import NullPool

    try:
        engine = create_engine(uri, poolclass=NullPool, connect_args={"connect_timeout": PATIENCE_S})
        with engine.connect() as connection:
            may = connection.execute(text("SELECT has_schema_privilege(current_schema(), 'CREATE')")).scalar()
    except (ArgumentError, ValueError):
        raise ConfigError(
            f"The database address {without_password(uri)} cannot be read.",
            hint="Use postgresql://USER@HOST:PORT/DATABASE; special characters in it as %40 and so on.",
        ) from None  # its message repeats the address
    except SQLAlchemyError as exc:
        raise _explained(str(getattr(exc, "orig", None) or exc), uri) from exc
    if not may:
        raise TrackingUnavailable(
            f"The user may not make tables in {without_password(uri)}.",
            hint="GRANT CREATE ON SCHEMA public TO the user, or make the user the owner of the database.",
        )


def require_short_enough(location: str) -> None:
    """Raises ConfigError for an experiment's artifact location that MLflow's columns have no room for."""
    longest = _LONGEST_ARTIFACT_URI - _RUN_PART
    if len(location) > longest:
        raise ConfigError(
            f"The artifact location has {len(location)} characters; MLflow's tables in PostgreSQL take {longest}.",
            hint="Choose a shorter --data-dir or --experiment-name.",
        )


def _require_driver(uri: str) -> None:
    named = re.match(r"postgresql\+(\w+)://", uri)
    driver = named[1] if named else "psycopg"  # SQLAlchemy's own choice since 2.1
    if find_spec(driver) is None:
        raise ConfigError(
            f"The PostgreSQL driver {driver!r} is not installed.",
            hint="make install brings psycopg, which postgresql://USER@HOST/DATABASE uses.",
        )


# What libpq says, in our words, and what to do about it. A server that speaks another language is quoted as it is.
_REASONS = (
    (
        r"password authentication failed|no password supplied|fe_sendauth",
        "does not accept the user or the password",
        "Check them; a password can be left out of the address: PGPASSWORD, or the file ~/.pgpass.",
    ),
    (
        r'role ".*" does not exist|role ".*" is not permitted to log in',
        "does not know the user",
        "Correct the address, or on the server: createuser --pwprompt USER",
    ),
    (
        r'database ".*" does not exist',
        "has no such database",
        "On the server: createdb --owner=USER DATABASE; MLflow makes the tables itself.",
    ),
    (r"no pg_hba.conf entry", "does not let this machine in", "Add a line for it to the server's pg_hba.conf."),
    (
        r"could not translate host name|failed to resolve|name or service|getaddrinfo|nodename",
        "cannot be found: its name is not resolved",
        "Correct the host in --backend-store-uri.",
    ),
    (
        r"timeout expired|timed out|connection timeout",
        f"did not answer within {PATIENCE_S} s",
        "Is there a firewall in between? Correct the host and the port in --backend-store-uri.",
    ),
    (
        r"connection refused|no such file or directory|no route to host|network is unreachable",
        "does not answer",
        "Start it, or correct the host and the port in --backend-store-uri.",
    ),
    (r"too many clients|remaining connection slots", "has no connection left", "Wait, or raise max_connections there."),
    (r"ssl|certificate", "does not agree on TLS", "Set ?sslmode= in the address as the server wants it."),
    (r"starting up|shutting down|recovery mode", "is not ready yet", "Wait a little, and run the same command again."),
)


def _explained(said: str, uri: str) -> TrackingUnavailable:
    place = f"The PostgreSQL server of {without_password(uri)}"
    for pattern, what, hint in _REASONS:
        if re.search(pattern, said, re.IGNORECASE):
            return TrackingUnavailable(f"{place} {what}.", hint=hint)
    first_line = (said.strip().splitlines() or ["no reason given"])[0]
    return TrackingUnavailable(f"{place} cannot be used: {first_line[:200]}", hint="Correct --backend-store-uri.")
