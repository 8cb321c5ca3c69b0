"""The report on a run: one HTML file for people, one JSON file for machines and auditors, telling the same."""

import json
from pathlib import Path
from typing import Final

import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from pydantic import JsonValue

from knarr.audit import charts, shown, signing, standing, story
from knarr.audit.canonical import canonical_json, digest_of
from knarr.audit.facts import CheckFacts, Facts, FindingFacts, MappingFacts, ReportData
from knarr.audit.judged import judged_checks
from knarr.errors import PlanError
from knarr.plan.models import Column, CrossCheck, Mapping, Phase, Plan
from knarr.telemetry.scrub import scrub

TEMPLATES: Final = Path(__file__).parent / "templates"
_PLAN_ORDER: Final = {
    field.alias or name: place
    for place, (name, field) in enumerate(
        pair for model in (Plan, Mapping, Column, CrossCheck, Phase) for pair in model.model_fields.items()
    )
}

FINDINGS_SHOWN: Final = 200
EVENTS_SHOWN: Final = 400
OBJECTS_SHOWN: Final = 400

__all__ = ["ReportData", "load_report", "render_report", "report_json"]


class MappingLine(Facts):
    """A mapping with what verification said of it: the row of the report's main table."""

    mapping: MappingFacts
    moved: story.Copied
    taken_back: bool
    share: float
    check: CheckFacts | None
    verified: str

    @property
    def rows_per_second(self) -> float:
        """Rows for each second of work."""
        return self.moved.rows / self.moved.seconds if self.moved.seconds > 0 else 0.0


def render_report(data: ReportData) -> str:
    """The report as one self-contained HTML document: no script, no address it would load from, fit for paper.

    Names and values from databases are escaped, and characters that would act on the page are written out.
    """
    # Objects one by one are in the JSON report; the steps that made or dropped them say how many they were.
    told = [event for event in story.events(data) if event.kind != "objects"]
    timed = charts.timed(told, data)
    bars = charts.time_bars(timed)
    checks = judged_checks(data)
    findings = [(check, finding) for check in checks for finding in check.findings]
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        finalize=shown.visible,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        duration=shown.duration,
        size=shown.size,
        moment=shown.moment,
        number=shown.number,
        short=shown.short,
        scrub=scrub,
    )
    return environment.get_template("report.html.j2").render(
        data=data,
        state=standing.state_of(data),
        css=Markup((TEMPLATES / "report.css").read_text(encoding="utf-8")),
        kinds=charts.kinds(data),
        slowest=charts.slowest(data),
        bars=bars,
        bars_left_out=sum(event.seconds > 0 for event in timed) - sum(bar.seconds > 0 for bar in bars),
        axis=charts.time_span(timed),
        whole=(data.run.ended_at - data.run.started_at).total_seconds() if data.run.ended_at else 0.0,
        events=told[:EVENTS_SHOWN],
        events_total=len(told),
        actions=story.actions(data),
        mapping_lines=mapping_lines(data),
        findings=findings[:FINDINGS_SHOWN],
        findings_total=sum(check.findings_total for check in checks),
        statements=sorted((check for check in checks if check.sql), key=_closest_to_people),
        objects=data.objects[:OBJECTS_SHOWN],
        objects_total=len(data.objects),
        plan_yaml=yaml.safe_dump(_as_written(data.plan), sort_keys=False, allow_unicode=True, width=110),
        report_digest=digest_of(data.model_dump(mode="json")),
        signatures=signing.told(data.signatures),
        finding_key=finding_key,
    )


def report_json(data: ReportData) -> str:
    """The report as one line of canonical JSON whose last word on itself is `digest`, over everything else in it.

    `python -m knarr.audit.offline FILE` checks it; a file in which one byte was changed does not pass.
    """
    document = data.model_dump(mode="json")
    return canonical_json(document | {"digest": digest_of(document)}) + "\n"


def load_report(text: str) -> ReportData:
    """The data of a report as `report_json` wrote it.

    Raises:
        PlanError: the text is not such a report.
    """
    try:
        document = json.loads(text)
        if not isinstance(document, dict):
            raise ValueError(f"found {type(document).__name__}, expected an object")
        document.pop("digest", None)
        return ReportData.model_validate(document)
    except ValueError as error:
        raise PlanError(f"not a Knarr report: {error}", hint="give the .json file that `knarr report` wrote") from error


def _as_written(value: JsonValue) -> JsonValue:
    """A plan's keys in the order in which people write them; JSON keeps them sorted."""
    if isinstance(value, list):
        return [_as_written(each) for each in value]
    if isinstance(value, dict):
        keys = sorted(value, key=lambda key: (_PLAN_ORDER.get(key, len(_PLAN_ORDER)), key))
        return {key: _as_written(value[key]) for key in keys}
    return value


def mapping_lines(data: ReportData) -> list[MappingLine]:
    """One line a mapping: what its copies moved, and its parity check of the phase that was verified last.

    What was taken back is no longer in the ledger, so its figures come from the audit trail.
    """
    parity = {check.mapping: check for check in judged_checks(data) if check.kind == "parity"}
    trail = story.copied(data)
    moved = {
        mapping.number: story.Copied(
            rows=mapping.rows, bytes=mapping.bytes, seconds=mapping.seconds, changes=mapping.changes
        )
        if mapping.partitions_copied
        else trail.get(mapping.name, story.Copied())
        for mapping in data.mappings
    }
    most = max((each.rows for each in moved.values()), default=0) or 1
    return [
        MappingLine(
            mapping=mapping,
            moved=moved[mapping.number],
            taken_back=moved[mapping.number].rows > mapping.rows,
            share=moved[mapping.number].rows / most,
            check=parity.get(mapping.number),
            verified=_verified(parity.get(mapping.number)),
        )
        for mapping in data.mappings
    ]


def finding_key(finding: FindingFacts) -> str:
    """A finding's key on one line: id = 7, line = 2."""
    return ", ".join(f"{column} = {'NULL' if value is None else value}" for column, value in finding.key.items())


def _closest_to_people(check: CheckFacts) -> tuple[bool, int]:
    # What failed first, then what a person wrote (rules, cross checks), then what Knarr derived from the plan.
    order = ("rule", "cross", "downstream", "integrity", "parity")
    return check.passed, order.index(check.kind) if check.kind in order else len(order)


def _verified(check: CheckFacts | None) -> str:
    if check is None:
        return "not computed"
    return "identical" if check.passed else "differs" if check.outcome == "failed" else check.outcome
