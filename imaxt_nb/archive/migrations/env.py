"""Run by Alembic: migrates the database of the connection that the catalogue hands over."""

from alembic import context

from imaxt_nb.archive.tables import Base

connection = context.config.attributes.get("connection")
if connection is None:
    raise RuntimeError("the catalogue migrates itself: open it with imaxt_nb.archive.catalogue.Catalogue")
# SQLite cannot alter most of a table: Alembic then copies it ("batch" mode)
context.configure(connection=connection, target_metadata=Base.metadata, render_as_batch=True)
with context.begin_transaction():
    context.run_migrations()
