"""The statements that write a mapping's rows on the target, for the runbook: the very ones that a run sends."""

from typing import Final

from knarr.audit.runbook import Statement
from knarr.plan.resolved import Partition, ResolvedMapping, TableName
from knarr.postgres.identifiers import qualified, quote
from knarr.postgres.merge_sql import STAGED, MergeSql

BOUND: Final = "; each change has its entry in the undo log, `$1` to `$4` are run, mapping, phase and partition"


def row_statements(mapping: ResolvedMapping) -> list[Statement]:
    """Of one transaction, in its order; of a table that points at itself inserts come first and deletes last.

    The mapping is shown as one partition: where it has several, each has its range of the key in place of `TRUE`.
    """
    if not mapping.occupied:
        return [Statement(purpose="the rows go in", sql=_copy(mapping, mapping.target))]
    if not mapping.key:
        return []  # the survey says so: without a key such a run is refused
    sql = MergeSql(mapping, Partition(mapping=mapping.number, number=0, lower=None, upper=None, estimated_rows=0))
    staged = ";\n".join([*sql.stage, _copy(mapping, STAGED), *sql.after_staging])
    steps = [("the rows are staged beside the table; their keys must be unique", staged)]
    if mapping.mode == "append":
        steps.append(("refused if one of the keys is there already", sql.standing))
    elif mapping.scope is not None:
        steps.append(("refused if one of the keys is there outside the scope", sql.out_of_scope))
    if mapping.delete_missing:
        of_scope = " of the scope" if mapping.scope is not None else ""
        steps.append(
            (f"DELETES rows{of_scope} that the source does not have, in the last phase{BOUND}", sql.noted("delete"))
        )
    if sql.updates:
        steps.append(("rows that differ are locked and kept as they are; `$1` and `$2` are run and mapping", sql.match))
        steps.append((f"updates them{BOUND}", sql.noted("update")))
    new = " whose key is not there" if mapping.mode == "merge" else ""
    steps.append((f"inserts rows{new}{BOUND}", sql.noted("insert")))
    if mapping.scope is not None:
        steps.append(("refused if one of the rows is outside the scope once it is written", sql.out_of_scope))
    return [Statement(purpose=purpose, sql=statement.strip()) for purpose, statement in steps]


def _copy(mapping: ResolvedMapping, into: TableName) -> str:
    columns = ", ".join(quote(column.name) for column in mapping.columns)
    form = "binary" if mapping.binary and mapping.transform is None else "text"
    return f"COPY {qualified(into)} ({columns}) FROM STDIN (FORMAT {form})"
