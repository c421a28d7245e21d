"""The shared database: one PostgreSQL database, any number of backends (docs/decisions/0025)."""

from swell.db.postgres.postgres_database import PostgresDatabase

__all__ = ["PostgresDatabase"]
