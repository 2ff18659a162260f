"""The rights of the role that Haulier's processes use: a role that owns nothing."""

from collections.abc import Iterator

from sqlalchemy import text
from sqlalchemy.engine import Connection
from sqlalchemy.orm import Session

from service.rules.errors import BadInput, Problem
from service.store.audit import record
from service.store.engine import Database
from service.store.models import SCHEMA

_USUAL = "SELECT, INSERT, UPDATE, DELETE"
_LESS = {
    "alembic_version": "SELECT",
    "schema_floor": "SELECT",
    # Not `at` and `id`: no process chooses when something was done.
    "audit": "SELECT, INSERT (actor, credential, origin, request_id, verb, object, before, after)",
    "events": "SELECT, INSERT, DELETE",
}

# Whoever may insert into tables that are still to be made. So later migrations know their roles.
_ROLES = text("""
SELECT DISTINCT r.rolname FROM pg_default_acl d, aclexplode(d.defaclacl) AS a
JOIN pg_roles r ON r.oid = a.grantee
WHERE d.defaclnamespace = CAST(:schema AS regnamespace) AND d.defaclobjtype = 'r'
  AND pg_get_userbyid(d.defaclrole) = current_user AND a.privilege_type = 'INSERT'
""")


def check(connection: Connection, role: str) -> None:
    """Raise BadInput unless the role can be bound by rights: it exists, and owns nothing here."""
    if not connection.scalar(text("SELECT true FROM pg_roles WHERE rolname = :r"), {"r": role}):
        words = f"there is no role {role!r}; make it: CREATE ROLE {_quoted(role)} LOGIN PASSWORD …"
        raise BadInput([Problem(words)])
    if connection.scalar(text("SELECT pg_has_role(:r, current_user, 'MEMBER')"), {"r": role}):
        owner = connection.scalar(text("SELECT current_user"))
        words = (
            f"the role {role!r} is a superuser, or the owner {owner!r} itself or one of its"
            " members, so no rights would bind it; name another role"
        )
        raise BadInput([Problem(words)])


def grant(connection: Connection, role: str | None) -> None:
    """Give a role the rights of a process, and renew those of the roles that had them before."""
    known = set(connection.scalars(_ROLES, {"schema": SCHEMA}))
    for name in sorted(known | ({role} if role is not None else set())):
        for statement in _statements(connection, _quoted(name)):
            connection.execute(text(statement))
    if role is not None and role not in known:
        with Session(connection) as session:
            record(session, None, "grant", "database", after={"role": role})
            session.flush()


def _statements(connection: Connection, role: str) -> Iterator[str]:
    yield f"GRANT USAGE ON SCHEMA {SCHEMA} TO {role}"
    tables = text("SELECT tablename FROM pg_tables WHERE schemaname = :schema ORDER BY 1")
    for table in connection.scalars(tables, {"schema": SCHEMA}).all():
        yield f"REVOKE ALL ON {SCHEMA}.{table} FROM {role}"
        yield f"GRANT {_LESS.get(table, _USUAL)} ON {SCHEMA}.{table} TO {role}"
    yield f"ALTER DEFAULT PRIVILEGES IN SCHEMA {SCHEMA} GRANT {_USUAL} ON TABLES TO {role}"


def _quoted(role: str) -> str:
    return '"' + role.replace('"', '""') + '"'


def owned_by(db: Database) -> tuple[str, bool]:
    """Return the present role, and whether it may do whatever the owner of the tables may."""
    with db.begin() as session:
        role, owns = session.execute(_OWNS, {"table": f"{SCHEMA}.jobs"}).one()
        return role, owns


_OWNS = text("""
SELECT current_user, pg_has_role(current_user, relowner, 'MEMBER')
FROM pg_class WHERE oid = CAST(:table AS regclass)
""")
