"""Runs with their parameters, metrics, files and warnings."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

INDEXED = {
    "runs": "run_id subject step template key status started_at finished_at seconds peak_memory_mb",
    "parameters": "run name",
    "metrics": "run name",
    "files": "run path digest",
    "warnings": "run",
}


def _of_run(name: str, *columns: sa.Column) -> None:
    op.create_table(
        name,
        sa.Column("id", sa.Integer, nullable=False),
        sa.Column("run", sa.Integer, nullable=False),
        *columns,
        sa.PrimaryKeyConstraint("id", name=f"pk_{name}"),
        sa.ForeignKeyConstraint(["run"], ["runs.id"], name=f"fk_{name}_run", ondelete="CASCADE"),
    )


def upgrade() -> None:
    op.create_table(
        "runs",
        sa.Column("id", sa.Integer, nullable=False),
        sa.Column("folder", sa.Text, nullable=False),
        sa.Column("run_id", sa.Text, nullable=False),
        sa.Column("scope", sa.Text, nullable=False),
        sa.Column("subject", sa.Text, nullable=False),
        sa.Column("step", sa.Text, nullable=False),
        sa.Column("template", sa.Text, nullable=False),
        sa.Column("title", sa.Text, nullable=False),
        sa.Column("key", sa.Text, nullable=False),
        sa.Column("status", sa.Text, nullable=False),
        sa.Column("reason", sa.Text),
        sa.Column("started_at", sa.DateTime),
        sa.Column("finished_at", sa.DateTime),
        sa.Column("seconds", sa.Double),
        sa.Column("peak_memory_mb", sa.Double),
        sa.Column("package_version", sa.Text, nullable=False),
        sa.Column("git_commit", sa.Text),
        sa.PrimaryKeyConstraint("id", name="pk_runs"),
        sa.UniqueConstraint("folder", name="uq_runs_folder"),
    )
    _of_run(
        "parameters",
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("value", sa.Text, nullable=False),
    )
    _of_run(
        "metrics",
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("number", sa.Double),
        sa.Column("text", sa.Text, nullable=False),
    )
    _of_run(
        "files",
        sa.Column("role", sa.Text, nullable=False),
        sa.Column("path", sa.Text, nullable=False),
        sa.Column("digest", sa.Text, nullable=False),
        sa.Column("bytes", sa.BigInteger, nullable=False),
    )
    _of_run("warnings", sa.Column("message", sa.Text, nullable=False))
    for table, columns in INDEXED.items():
        for column in columns.split():
            op.create_index(f"ix_{table}_{column}", table, [column])


def downgrade() -> None:
    for table in ("warnings", "files", "metrics", "parameters", "runs"):
        op.drop_table(table)
