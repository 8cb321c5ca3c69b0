"""`knarr verify PLAN`: everything that a run's last verification checks, without a run and without writing."""

from pathlib import Path

import pytest
from pydantic import SecretStr

from knarr.local.cluster import Cluster
from knarr.plan.load import parse_plan
from knarr.plan.models import Plan
from knarr.postgres.session import Connection
from knarr.settings import Connections
from knarr.verify.alone import Progress, verify_plan
from knarr.verify.models import Verdict

PLAN = """
name: shop
source: legacy
target: shop
mappings:
  - target: shop.customer
    source: public.customers c
    joins: LEFT JOIN public.nation n ON n.id = c.nation
    key: {id: c.id}
    columns:
      name: trim(c.name)
      country: n.name
      balance: c.balance
    rules:
      name is present: name <> ''
  - target: shop.purchase
    source: public.purchases p
    key: {id: p.id}
    columns: {customer_id: p.customer, total: p.total}
    foreign_keys:
      - {columns: [customer_id], references: shop.customer}
checks:
  - name: revenue
    source: SELECT customer, sum(total) FROM public.purchases GROUP BY 1
    target: SELECT customer_id, sum(total) FROM shop.purchase GROUP BY 1
limits: {partition_size: 4kB}
parallelism: {verify: 3}
"""

SOURCE = """
CREATE TABLE nation (id integer PRIMARY KEY, name text);
INSERT INTO nation SELECT n, 'nation ' || n FROM generate_series(1, 5) n;
CREATE TABLE customers (id integer PRIMARY KEY, name character(20) NOT NULL, nation integer, balance numeric(10,2));
INSERT INTO customers SELECT n, 'customer ' || n, nullif(n % 6, 0), n / 3.0 FROM generate_series(1, 400) n;
CREATE TABLE purchases (id bigint PRIMARY KEY, customer integer NOT NULL, total numeric(12,2));
INSERT INTO purchases SELECT n, n % 400 + 1, n * 1.5 FROM generate_series(1, 2000) n;
ANALYZE;
"""

TARGET = """
CREATE SCHEMA shop;
CREATE TABLE shop.customer (id integer PRIMARY KEY, name text, country text, balance numeric(10,2));
INSERT INTO shop.customer
SELECT n, 'customer ' || n, CASE WHEN n % 6 > 0 THEN 'nation ' || n % 6 END, n / 3.0 FROM generate_series(1, 400) n;
CREATE TABLE shop.purchase (
    id bigint PRIMARY KEY,
    customer_id integer NOT NULL CONSTRAINT purchase_customer_id_fkey REFERENCES shop.customer,
    total numeric(12,2)
);
INSERT INTO shop.purchase SELECT n, n % 400 + 1, n * 1.5 FROM generate_series(1, 2000) n;
"""


@pytest.fixture
def plan() -> Plan:
    return parse_plan(PLAN, Path("shop.yaml")).plan


@pytest.fixture
def connections(source_dsn: str, target_dsn: str) -> Connections:
    return Connections({"legacy": SecretStr(source_dsn), "shop": SecretStr(target_dsn)}, Path("knarr.toml"))


@pytest.fixture
async def loaded(source: Connection, target: Connection) -> None:
    await source.execute(SOURCE)
    await target.execute(TARGET)


def outcomes(verdict: Verdict) -> dict[tuple[str, str], str]:
    return {(check.kind, check.name): check.outcome for check in verdict.checks}


@pytest.mark.usefixtures("loaded")
async def test_a_target_that_is_what_the_plan_says_passes(
    plan: Plan, connections: Connections, second_cluster: Cluster, target_dsn: str
) -> None:
    name = target_dsn.rsplit("/", 1)[1].split("?")[0]
    before = second_cluster.pg_dump(name)
    told: list[Progress] = []
    verdict = await verify_plan(connections, plan, on_progress=told.append)
    assert verdict.passed, verdict
    assert outcomes(verdict) == {
        ("parity", "shop.customer"): "passed",
        ("integrity", "shop.customer"): "passed",
        ("rule", "name is present"): "passed",
        ("parity", "shop.purchase"): "passed",
        ("integrity", "shop.purchase"): "passed",
        ("cross", "revenue"): "passed",
    }
    assert [check.partitions for check in verdict.checks if check.kind == "parity"][1] > 5
    assert (told[-1].done, told[-1].rows) == (told[-1].total, 2400)
    assert (verdict.run_id, verdict.phase) == ("", "everyone")
    assert second_cluster.pg_dump(name) == before  # no knarr schema, nothing written


@pytest.mark.usefixtures("loaded")
async def test_differences_of_every_kind_are_named(plan: Plan, connections: Connections, target: Connection) -> None:
    await target.execute(
        "UPDATE shop.customer SET name = '' WHERE id = 7;"
        "SET session_replication_role = replica; UPDATE shop.purchase SET customer_id = 999 WHERE id = 1500;"
        "RESET session_replication_role"
    )
    verdict = await verify_plan(connections, plan)
    assert not verdict.passed
    found = {(c.kind, f.kind, f.key.get("id"), f.column) for c in verdict.checks for f in c.findings}
    assert {
        ("parity", "changed", "7", "name"),
        ("rule", "rule", "7", None),
        ("parity", "changed", "1500", "customer_id"),
        ("integrity", "orphan", "1500", "customer_id"),
    } <= found
    assert outcomes(verdict)["cross", "revenue"] == "failed"


@pytest.mark.usefixtures("loaded")
async def test_a_table_that_is_not_there_has_failed(plan: Plan, connections: Connections, target: Connection) -> None:
    await target.execute("DROP TABLE shop.purchase")
    verdict = await verify_plan(connections, plan)
    assert not verdict.passed
    assert outcomes(verdict)["parity", "shop.purchase"] == "could not run"
    assert outcomes(verdict)["parity", "shop.customer"] == "passed"


@pytest.mark.usefixtures("loaded")
async def test_a_source_table_that_is_not_there_has_failed(
    plan: Plan, connections: Connections, source: Connection
) -> None:
    await source.execute("ALTER TABLE purchases RENAME TO elsewhere")
    verdict = await verify_plan(connections, plan)
    assert not verdict.passed
    assert outcomes(verdict)["parity", "shop.purchase"] == "could not run"
    assert "purchases" in next(check.message for check in verdict.checks if check.name == "shop.purchase")
