"""The runbook: statements word for word, orders to give, and names that would like to be markdown."""

import pytest

from knarr.audit import runbook
from knarr.audit.runbook import Statement
from knarr.plan.models import Plan
from knarr.plan.resolved import DatabaseObject, ResolvedColumn, ResolvedMapping, Survey, SurveyProblem, TableName

HOSTILE = "a | b `c` <b>*d*</b>\n# e\u202e"


def column(name: str, expression: str) -> ResolvedColumn:
    return ResolvedColumn(
        name=name,
        expression=expression,
        source_type="integer",
        target_type="integer",
        base_type="integer",
        category="builtin",
        not_null=True,
        collatable=False,
    )


def survey(
    *problems: SurveyProblem, name: str = "order", create: str = 'CREATE TABLE shop."order" (id integer)'
) -> Survey:
    table = DatabaseObject(
        kind="table", name=name, stage="table", create=create, drop='DROP TABLE IF EXISTS shop."order"', probe="SELECT"
    )
    key = table.model_copy(
        update={
            "kind": "primary key",
            "stage": "keys",
            "create": "ALTER TABLE ADD PRIMARY KEY",
            "drop": "ALTER TABLE DROP",
        }
    )
    mapping = ResolvedMapping(
        number=0,
        target=TableName(schema_name="shop", name=name),
        source_table=TableName(schema_name="public", name="orders"),
        source_alias="o",
        from_clause="public.orders o",
        where="o.o_orderkey > 0",
        key=[column("id", "o.o_orderkey")],
        columns=[column("id", "o.o_orderkey"), column("total", "o.o_totalprice * 2")],
        mode="create",
        binary=True,
        transform="transforms.orders:clean",
        rules={"total is positive": "total > 0"},
        objects=[table, key],
        estimated_rows=150_000,
        estimated_bytes=2_000_000_000,
    )
    return Survey(
        source_version="18.6",
        target_version="18.6",
        source_identity="1 legacy",
        target_identity="2 shop",
        mappings=[mapping],
        objects=[],
        problems=list(problems),
    )


def plan(**more: object) -> Plan:
    known: dict[str, object] = {
        "name": "shop-v2",
        "source": "legacy",
        "target": "shop",
        "mappings": [{"target": "shop.order", "source": "public.orders o", "key": {"id": "o.o_orderkey"}}],
    }
    return Plan.model_validate(known | more)


def render_runbook(plan: Plan, survey: Survey) -> str:
    return runbook.render_runbook(plan, survey, {0: [Statement(purpose="the rows go in", sql="COPY shop FROM STDIN")]})


def test_it_says_what_will_run_word_for_word_and_in_order() -> None:
    text = render_runbook(plan(), survey())
    parts = [
        "about 150,000 rows and 2 GB, from **legacy** to **shop**",
        "1. **Claim.**",
        "2. **Survey.**",
        "4. **Copy, build, verify.**",
        "## The statements that will run on legacy, the source",
        "SELECT o.o_orderkey AS id,\n       o.o_totalprice * 2 AS total\n  FROM public.orders o\n WHERE o.o_orderkey",
        "-- then through transforms.orders:clean",
        "## The statements that will run on shop, the target",
        'CREATE TABLE shop."order" (id integer)',
        'DROP TABLE IF EXISTS shop."order"',
        "1. the rows go in\n\n```sql\nCOPY shop FROM STDIN\n```",
        "Taken back: the run's rows are removed.",
        "ALTER TABLE ADD PRIMARY KEY",
        "*total is positive*: `total > 0`",
    ]
    places = [text.index(part) for part in parts]
    assert places == sorted(places)
    assert "\n\n\n" not in text


@pytest.mark.parametrize(
    "order",
    [
        "watch",
        "status",
        "pause",
        "resume",
        "approve",
        "abort",
        "rollback",
        "complete",
        "report",
        "audit",
        "retry",
        "skip",
    ],
)
def test_every_order_that_a_person_can_give_is_there(order: str) -> None:
    assert f"`knarr {order} RUN" in render_runbook(plan(), survey())


@pytest.mark.parametrize(
    "kind",
    ["TransientError", "PlanError", "SurveyRefused", "ClaimRefused", "DataError", "LostLease", "MigrationRolledBack"],
)
def test_every_kind_of_failure_has_something_to_do(kind: str) -> None:
    assert f"| `{kind}` |" in render_runbook(plan(), survey())


def test_phases_soak_approval_and_keeping_are_told() -> None:
    rollout = [
        {"phase": "canary", "where": {"shop.order": "o.id % 100 = 0"}, "soak": "10m", "approve": "manual"},
        {"phase": "everyone"},
    ]
    text = render_runbook(plan(rollout=rollout, rollback={"keep_for": "7d"}), survey())
    assert "4. **Phase canary: copy, build, verify.** Rows where shop.order: `o.id % 100 = 0`" in text
    assert "then 10m of waiting, then a person must approve" in text
    assert "5. **Phase everyone" in text
    assert "stays open for 7d" in text
    assert "stays open" not in render_runbook(plan(rollback={"keep_for": "0s"}), survey())


def test_an_error_of_the_survey_says_that_the_run_would_be_refused() -> None:
    error = SurveyProblem(severity="error", where="shop.order", found="the table is there", hint="use mode: fill")
    assert "As it stands the run would be refused" in render_runbook(plan(), survey(error))
    warning = error.model_copy(update={"severity": "warning"})
    text = render_runbook(plan(), survey(warning))
    assert "As it stands the run would be refused" not in text
    assert "Next: use mode: fill" in text


def test_names_and_sql_can_not_act_on_the_page() -> None:
    problem = SurveyProblem(severity="warning", where=HOSTILE, found=HOSTILE)
    text = render_runbook(plan(description=HOSTILE), survey(problem, name=HOSTILE, create=f"-- ```\n{HOSTILE}"))
    assert "\u202e" not in text
    assert "\n# e" not in text.replace("````sql\n-- ```\na | b `c` <b>*d*</b>\n# e", "")
    assert "````sql\n-- ```" in text
    for row in (line for line in text.splitlines() if line.startswith("| shop.")):
        assert row.count("|") - row.count("\\|") == 7, row


def test_a_secret_in_a_statement_is_blanked() -> None:
    text = render_runbook(plan(), survey(create="CREATE USER MAPPING OPTIONS (password 'hunter2')"))
    assert "hunter2" not in text


def merging(**changes: object) -> Survey:
    """The survey of a plan that makes nothing: its one table is there and has rows."""
    found = survey()
    changes = {"mode": "merge", "transform": None, "objects": [], "estimated_bytes": 2_000_000_000} | changes
    return found.model_copy(update={"mappings": [found.mappings[0].model_copy(update=changes)]})


def test_what_a_merge_does_to_rows_that_are_there_is_told() -> None:
    text = render_runbook(plan(), merging(delete_missing=True, scope="region = 'north'"))
    assert "| merge, **deletes** rows that the source lacks |" in text
    assert "3. **Create.** Nothing: every table of the plan is there." in text
    assert "All rows that remain, then verification." in text
    assert "shop.order, mode merge, only rows where `region = 'north'`:" in text
    assert "Taken back from the undo log: inserted rows go, updated and deleted ones get back what they held." in text
    assert "Rows that go into tables that have rows take about 6 min 40 s" in text
    assert "Copying" not in text


@pytest.mark.parametrize(
    ("changed_since", "told"),
    [
        ("stop", "the run waits for a person"),
        ("keep theirs", "they stay as they are"),
        ("restore ours", "they are LOST"),
    ],
)
def test_what_becomes_of_rows_that_others_changed_is_told(changed_since: str, told: str) -> None:
    text = render_runbook(plan(rollback={"changed_since": changed_since}), survey())
    assert f"(`changed_since: {changed_since}`): {told}" in text


def test_few_rows_take_about_a_second_and_not_from_one_to_one() -> None:
    few = survey()
    few = few.model_copy(update={"mappings": [few.mappings[0].model_copy(update={"estimated_bytes": 8_192})]})
    assert "Copying so few rows takes about a second." in render_runbook(plan(), few)
    assert "in about a second" in render_runbook(plan(), merging(estimated_bytes=8_192))
    assert "Copying takes between 13.3 s" in render_runbook(plan(), survey())


def test_that_it_would_be_refused_is_a_paragraph_of_its_own() -> None:
    error = SurveyProblem(severity="error", where="shop.order", found="the table is there")
    assert "\n\n**As it stands the run would be refused**" in render_runbook(plan(), survey(error))


def test_a_lost_run_is_ended_with_a_reason() -> None:
    assert "`knarr doctor --unwind RUN --reason WHY`" in render_runbook(plan(), survey())


def test_guards_and_what_a_breach_does_are_told() -> None:
    guard = {"name": HOSTILE, "query": "SELECT count(*) FROM shop.failed", "max": 5, "during": "always"}
    paused = render_runbook(plan(guards=[guard]), survey())
    assert "a breach pauses the run; resuming accepts it" in paused
    assert "on target, at any time, every 10s: `SELECT count(*) FROM shop.failed`, at most 5" in paused
    assert HOSTILE not in paused
    taken_back = render_runbook(plan(guards=[guard], rollback={"on": ["guard"]}), survey())
    assert "a breach rolls back" in taken_back


def test_what_is_asked_downstream_is_told_word_for_word() -> None:
    checks = [
        {"name": "page", "http": {"url": "http://shop/health", "pointer": "/ok", "equals": True}, "within": "2m"},
        {"name": "many", "query": {"alias": "dwh", "query": "SELECT 1", "target": "SELECT 2"}},
        {"name": "stale", "redis": {"alias": "cache", "key": "orders", "equals": None}},
        {"name": "own", "function": "checks:fresh"},
    ]

    text = render_runbook(plan(downstream=checks), survey())

    for told in (
        "*page*: `http://shop/health` says `true` at `/ok`, asked again for up to 2m.\n",
        "*many*: `SELECT 1` on dwh gives what `SELECT 2` gives here.\n",
        "*stale*: the key `orders` of cache is gone.\n",
        "*own*: the function `checks:fresh` has no problem to tell.\n",
    ):
        assert f"- Downstream, after the last phase, {told}" in text


def test_a_bound_is_told_as_the_plan_writes_it() -> None:
    guard = {"name": "failed", "on": "target", "query": "SELECT 1", "min": 0.5, "max": 5}
    assert ", at least 0.5, at most 5\n" in render_runbook(plan(guards=[guard]), survey())
