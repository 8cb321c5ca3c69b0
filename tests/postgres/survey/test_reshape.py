"""The demo's plan: every table of TPC-H reshaped, over the schema that the demo loads."""

from urllib.parse import urlsplit

from knarr.local.cluster import Cluster
from knarr.plan.load import load_plan
from knarr.plan.models import Plan
from knarr.postgres.session import Connection
from knarr.postgres.survey import survey
from tests.postgres.survey.conftest import ROOT, make, take_back, told
from tests.postgres.survey.test_whole_schemas import dump


async def test_the_demos_plan_is_resolved_made_and_taken_back(
    reader: Connection,
    target: Connection,
    cluster: Cluster,
    second_cluster: Cluster,
    source_dsn: str,
    target_dsn: str,
) -> None:
    cluster.psql(ROOT / "starter/demo/legacy.sql", urlsplit(source_dsn).path.lstrip("/"))
    plan: Plan = load_plan(ROOT / "examples/tpch/shop.yaml").plan
    empty = dump(second_cluster, target_dsn)

    found = await survey(reader, target, plan, None)

    assert told(found) == []
    assert told(found, "warning") == []
    assert [(one.kind, one.name) for one in found.objects] == [
        ("schema", "shop"), ("enum", "shop.order_status"), ("enum", "shop.return_state"),
    ]  # fmt: skip
    by_name = {mapping.target.name: mapping for mapping in found.mappings}
    assert {name for name, mapping in by_name.items() if not mapping.binary} == {"customer"}
    assert by_name["customer"].transform_columns == ["phone"]
    assert [one.column for mapping in found.mappings for one in mapping.sequences] == ["id"] * 5
    status = next(one for one in by_name["order"].columns if one.name == "status")
    assert (status.source_type, status.target_type, status.category) == ("text", "shop.order_status", "enum")
    assert by_name["country"].from_clause == (
        '"public"."nation" AS "n" JOIN public.region r ON r.r_regionkey = n.n_regionkey'
    )
    await make(target, found)
    after = dump(second_cluster, target_dsn)
    for expected in (
        'ADD CONSTRAINT order_line_order_id_fkey FOREIGN KEY (order_id) REFERENCES shop."order"(id) ON DELETE CASCADE',
        "CREATE INDEX part_attributes_idx ON shop.part USING gin (attributes)",
        "ADD CONSTRAINT order_line_pkey PRIMARY KEY (order_id, line)",
        "CONSTRAINT order_priority_is_known CHECK (((priority >= 1) AND (priority <= 5)))",
    ):
        assert expected in after
    await take_back(target, found)
    assert dump(second_cluster, target_dsn) == empty
