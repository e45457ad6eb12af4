"""The Python drivers behind one interface: connect, run a statement with parameters, return rows in a form that can be compared."""

import asyncio
import json


class Fields:
    """The fields of a template, which each driver sends in every way that it has for JSON."""

    def __init__(self, **values):
        self.values = values


class ServerError(Exception):
    """An error that the server raised."""

    def __init__(self, sqlstate, message, hint):
        super().__init__(f"{sqlstate} {message}")
        self.sqlstate, self.hint = sqlstate, hint or ""


class ClientError(Exception):
    """An error that the driver raised, because the server has asked for another type."""


def comparable(value):
    if isinstance(value, float):
        return round(value, 9)
    if isinstance(value, memoryview):
        return bytes(value)
    if isinstance(value, dict):
        return json.dumps(value, sort_keys=True)
    if isinstance(value, str) and value.startswith("{"):
        try:
            return json.dumps(json.loads(value), sort_keys=True)
        except ValueError:
            return value
    return value


class Driver:
    json_wrappers = ()

    def with_wrapper(self, wrapper, args):
        return [wrapper(a.values) if isinstance(a, Fields) else a for a in args]

    def run(self, sql, args=()):
        """Runs a statement in which {} stands for a parameter, once per way to send JSON; all have to give the same."""
        wrappers = self.json_wrappers if any(isinstance(a, Fields) for a in args) else self.json_wrappers[:1]
        results = [self.execute(sql, self.with_wrapper(w, args)) for w in wrappers]
        if any(r != results[0] for r in results):
            raise AssertionError(f"it depends on how JSON is sent: {results}")
        return results[0]

    def execute(self, sql, args):
        raise NotImplementedError


class Psycopg2(Driver):
    name = "psycopg2"

    def __init__(self, host, database):
        import psycopg2
        from psycopg2.extras import Json

        self.module, self.json_wrappers = psycopg2, (json.dumps, Json)
        self.connection = psycopg2.connect(host=host, user="postgres", dbname=database)
        self.connection.autocommit = True

    def execute(self, sql, args):
        with self.connection.cursor() as cursor:
            try:
                cursor.execute(sql.replace("%", "%%").replace("{}", "%s"), args)
            except self.module.Error as e:
                raise ServerError(e.pgcode, str(e), e.diag.message_hint) from None
            rows = cursor.fetchall() if cursor.description else []
        return [tuple(comparable(v) for v in row) for row in rows]


class Psycopg3(Driver):
    name = "psycopg"

    def __init__(self, host, database):
        import psycopg
        from psycopg.types.json import Json, Jsonb

        self.module, self.json_wrappers = psycopg, (json.dumps, Json, Jsonb)
        self.connection = psycopg.connect(host=host, user="postgres", dbname=database, autocommit=True)

    def execute(self, sql, args):
        try:
            cursor = self.connection.execute(sql.replace("%", "%%").replace("{}", "%s"), args)
        except self.module.Error as e:
            raise ServerError(e.sqlstate, str(e), e.diag.message_hint) from None
        rows = cursor.fetchall() if cursor.description else []
        return [tuple(comparable(v) for v in row) for row in rows]


class Asyncpg(Driver):
    name = "asyncpg"

    def __init__(self, host, database):
        import asyncpg

        self.module, self.json_wrappers = asyncpg, (json.dumps,)
        self.loop = asyncio.new_event_loop()
        self.connection = self.loop.run_until_complete(asyncpg.connect(host=host, user="postgres", database=database))

    def execute(self, sql, args):
        parts = sql.split("{}")
        sql = parts[0] + "".join(f"${i}{part}" for i, part in enumerate(parts[1:], 1))
        try:
            rows = self.loop.run_until_complete(self.connection.fetch(sql, *args))
        except self.module.PostgresError as e:
            if type(e) is self.module.DataError:  # asyncpg raises it itself; errors of the server are subclasses
                raise ClientError(str(e)) from None
            raise ServerError(e.sqlstate, str(e), e.hint) from None
        return [tuple(comparable(v) for v in row.values()) for row in rows]


ALL = (Psycopg2, Psycopg3, Asyncpg)
