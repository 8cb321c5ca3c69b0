"""Objects whose SQL a plan's author wrote are made as written, comments and all."""

from knarr.plan.resolved import TableName
from knarr.postgres import ddl
from knarr.postgres.ddl import TargetColumn
from knarr.postgres.session import Connection


async def test_a_generated_column_whose_expression_ends_in_a_comment_is_made(shared: Connection) -> None:
    table = TableName(schema_name="public", name="commented")
    columns = [
        TargetColumn(name="n", type="integer"),
        TargetColumn(name="twice", type="integer", generated_sql="n * 2 -- doubled", not_null=True),
    ]
    await shared.execute(ddl.table(table, columns).create)
    try:
        await shared.execute("INSERT INTO public.commented (n) VALUES (21)")
        assert await shared.fetchval("SELECT twice FROM public.commented") == 42
    finally:
        await shared.execute("DROP TABLE public.commented")
