"""Rules: what is false fails, what is unknown fails, and what can't be asked has failed."""

from knarr.postgres.session import Connection
from knarr.verify.rules import check_rules
from tests.verify.tables import resolve


async def test_false_and_null_both_break_a_rule_and_their_keys_are_shown(
    source: Connection, target: Connection
) -> None:
    await source.execute("CREATE TABLE t (id integer, name text)")
    await target.execute("CREATE TABLE t (id integer, name text)")
    await target.execute("INSERT INTO t VALUES (1, 'a'), (2, ''), (3, NULL), (4, 'b')")
    rules = {"name is present": "name <> ''", "id is positive": "id > 0", "broken": "nobody > 1", "last": "true -- yes"}
    mapping = await resolve(source, target, "t", ["id"], rules=rules)
    results = await check_rules(target, mapping, 100)
    assert [(result.name, result.outcome) for result in results] == [
        ("name is present", "failed"),
        ("id is positive", "passed"),
        ("broken", "could not run"),
        ("last", "passed"),
    ]
    assert results[0].counts == {"rule": 2} and results[0].target_rows == 4
    assert {(f.key["id"], f.expected, f.found) for f in results[0].findings} == {
        ("2", "name <> ''", "false"),
        ("3", "name <> ''", "NULL"),
    }
    assert 'column "nobody" does not exist' in results[2].message


async def test_a_rule_may_look_at_other_tables(source: Connection, target: Connection) -> None:
    await source.execute("CREATE TABLE purchase (id integer, total numeric)")
    await target.execute(
        "CREATE TABLE purchase (id integer, total numeric); CREATE TABLE line (purchase_id integer, price numeric)"
    )
    await target.execute("INSERT INTO purchase VALUES (1, 10), (2, 5); INSERT INTO line VALUES (1, 4), (1, 6), (2, 6)")
    predicate = "total = (SELECT sum(price) FROM line l WHERE l.purchase_id = purchase.id)"
    mapping = await resolve(source, target, "purchase", ["id"], rules={"lines add up": predicate})
    [result] = await check_rules(target, mapping)
    assert [finding.key for finding in result.findings] == [{"id": "2"}]


async def test_only_rows_in_scope_must_meet_a_rule(source: Connection, target: Connection) -> None:
    await source.execute("CREATE TABLE t (id integer)")
    await target.execute("CREATE TABLE t (id integer); INSERT INTO t VALUES (1), (-1)")
    mapping = await resolve(source, target, "t", ["id"], rules={"positive": "id > 0"}, scope="id = 1 OR id = 2")
    [result] = await check_rules(target, mapping)
    assert (result.outcome, result.target_rows) == ("passed", 1)


async def test_shown_keys_are_capped_and_counted_ones_are_not(source: Connection, target: Connection) -> None:
    await source.execute("CREATE TABLE t (id integer)")
    await target.execute("CREATE TABLE t (id integer); INSERT INTO t SELECT generate_series(1, 50)")
    mapping = await resolve(source, target, "t", ["id"], rules={"none": "id < 0"})
    [result] = await check_rules(target, mapping, 5)
    assert (result.findings_total, len(result.findings)) == (50, 5)
