"""The statements of the runbook that write rows: those that a run sends, in its order."""

import re
from typing import Any

import pytest

from knarr.plan.resolved import ResolvedMapping
from starter.row_statements import row_statements
from tests.audit.test_runbook import survey

WRITES = re.compile(r"(DELETE FROM|UPDATE|INSERT INTO) \"shop\"")


def mapping(**changes: Any) -> ResolvedMapping:
    return survey().mappings[0].model_copy(update={"mode": "merge", "transform": None} | changes)


def writes(of: ResolvedMapping) -> list[str]:
    """What changes the target's table, in order; every such statement writes its undo log too."""
    changing = [each for each in row_statements(of) if WRITES.search(each.sql)]
    assert all("INSERT INTO knarr.undo" in each.sql for each in changing)
    return [match[1] for each in changing if (match := WRITES.search(each.sql))]


def test_a_merge_updates_and_inserts_and_deletes_only_where_asked() -> None:
    assert writes(mapping()) == ["UPDATE", "INSERT INTO"]
    assert writes(mapping(delete_missing=True)) == ["DELETE FROM", "UPDATE", "INSERT INTO"]
    assert writes(mapping(mode="append")) == ["INSERT INTO"]


def test_the_scope_is_in_what_deletes_and_in_what_refuses() -> None:
    told = row_statements(mapping(delete_missing=True, scope="region = 'north'"))
    [deleting] = [each for each in told if "DELETE FROM" in each.sql]
    assert "AND (region = 'north') AND NOT EXISTS" in deleting.sql
    assert deleting.purpose.startswith("DELETES rows of the scope that the source does not have, in the last phase")
    assert [each.purpose.split(" if ")[0] for each in told if "IS NOT TRUE" in each.sql] == ["refused", "refused"]


def test_rows_are_staged_first_and_by_the_form_that_they_come_in() -> None:
    first = row_statements(mapping())[0].sql
    assert first.startswith("CREATE TEMPORARY TABLE")
    assert 'COPY "pg_temp"."knarr_staged" ("id", "total") FROM STDIN (FORMAT binary)' in first


@pytest.mark.parametrize("mode", ["create", "fill"])
def test_into_a_table_without_rows_they_are_copied(mode: str) -> None:
    [only] = row_statements(mapping(mode=mode, transform="transforms.orders:clean"))
    assert only.sql == 'COPY "shop"."order" ("id", "total") FROM STDIN (FORMAT text)'


def test_a_mapping_that_will_be_refused_for_its_key_has_none() -> None:
    assert row_statements(mapping(key=[])) == []
