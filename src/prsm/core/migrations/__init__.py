"""Alembic's revisions of the tables, and the SQL functions they install."""
