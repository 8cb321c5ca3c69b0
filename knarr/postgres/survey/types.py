"""What each type is called on the target, and which types the run has to make there."""

import contextlib
import json
import re
from typing import Final, Literal, NamedTuple

from knarr.plan.names import parse_table, write_table
from knarr.plan.problems import Refusal
from knarr.plan.resolved import DatabaseObject, TableName
from knarr.postgres import ddl
from knarr.postgres.catalogue import CatalogueType, qualified_names, read_types
from knarr.postgres.identifiers import qualified
from knarr.postgres.session import Connection
from knarr.postgres.survey.ask import Failure, describe, lookup
from knarr.postgres.survey.problems import Problems, listed, nearest

# Their binary form is an oid, which means something else on the other server; their text is a name.
_NAMED_BY_OID: Final = frozenset(
    [
        "regclass",
        "regcollation",
        "regconfig",
        "regdictionary",
        "regnamespace",
        "regoper",
        "regoperator",
        "regproc",
        "regprocedure",
        "regrole",
        "regtype",
    ]
)
_TYPE_OID: Final = "SELECT pg_catalog.to_regtype($1)::oid"
_EXTENSION_TYPE: Final = """
SELECT t.oid FROM pg_catalog.pg_depend dep
  JOIN pg_catalog.pg_extension e ON e.oid = dep.refobjid AND dep.refclassid = 'pg_catalog.pg_extension'::regclass
  JOIN pg_catalog.pg_type t ON t.oid = dep.objid AND dep.classid = 'pg_catalog.pg_type'::regclass
 WHERE dep.deptype = 'e' AND e.extname = $1 AND t.typname = $2
"""
_TYPE_NAMES: Final = """
SELECT format_type(t.oid, NULL) FROM pg_catalog.pg_type t JOIN pg_catalog.pg_namespace n ON n.oid = t.typnamespace
 WHERE t.typelem = 0 AND t.typtype IN ('b', 'd', 'e', 'r') AND n.nspname !~ '^(pg_toast|information_schema)'
"""


class TypeUse(NamedTuple):
    """A type as a column of the target has it."""

    sql: str
    """With typmod, schema-qualified if not built in."""
    base: str
    """With domains stripped."""
    category: Literal["builtin", "enum", "other"]
    collatable: bool


class Types:
    """Translates the source's types and the plan's into the target's.

    `objects` holds the types that the run makes, each after those that it is made of. `stand_ins` says what to write
    for them as long as they do not exist: text for an enum, the base for a domain.
    """

    def __init__(
        self,
        source: Connection,
        target: Connection,
        *,
        enums: dict[str, list[str]],
        schemas: dict[str, str],
        own: frozenset[tuple[str, str]],
        problems: Problems,
    ) -> None:
        self._source = source
        self._target = target
        self._schemas = schemas
        self._own = own
        self._problems = problems
        self._enums = {parse_table(name): labels for name, labels in enums.items()}
        self._source_types: dict[int, CatalogueType] = {}
        self._target_types: dict[int, CatalogueType] = {}
        self._placed: dict[int, TypeUse | None] = {}
        self.objects: list[DatabaseObject] = []
        self.stand_ins: dict[TableName, str] = {}

    async def declare(self) -> None:
        """The plan's own enums."""
        for name, labels in self._enums.items():
            await self._make_enum(f"types.{write_table(name)}", name, labels)

    @property
    def used(self) -> list[int]:
        """The source's types, by oid, that the mappings' columns are made of."""
        return list(self._source_types)

    async def source_type(self, oid: int) -> CatalogueType:
        """A type of the source."""
        if oid not in self._source_types:
            self._source_types |= await read_types(self._source, [oid])
        return self._source_types[oid]

    async def target_type(self, oid: int) -> CatalogueType:
        """A type of the target."""
        if oid not in self._target_types:
            self._target_types |= await read_types(self._target, [oid])
        return self._target_types[oid]

    async def existing(self, oid: int, written: str) -> TypeUse:
        """A type that the target has; `written` is format_type() with typmod."""
        kind = await self.target_type(oid)
        base, base_sql = kind, written
        while base.kind == "domain" and base.base_oid is not None and base.base_sql is not None:
            base_sql = base.base_sql
            base = await self.target_type(base.base_oid)
        return TypeUse(written, base_sql, _category(base), kind.collatable)

    async def moved(self, oid: int, written: str, where: str) -> TypeUse | None:
        """A type of the source as the target will have it; None, and a problem, if it can't have it.

        Args:
            oid: the type on the source.
            written: format_type() there, with typmod.
            where: the column, for the problem.
        """
        kind = await self.source_type(oid)
        if oid not in self._placed:
            self._placed[oid] = await self._place(kind, where)
        placed = self._placed[oid]
        if placed is None:
            return None
        sql = written.replace(kind.sql_name, placed.sql, 1) if kind.kind != "builtin" else written
        base = sql if placed.base == placed.sql or kind.kind == "builtin" else placed.base
        return placed._replace(sql=sql, base=base)

    async def declared(self, text: str, where: str) -> TypeUse | None:
        """A type as the plan writes it, on the target; None, and a problem, if the target does not know it."""
        name: TableName | None = None
        with contextlib.suppress(Refusal):  # it need not be schema.type
            name = parse_table(text)
        if name is not None and name in self.stand_ins:
            written = await self._written(name)
            return TypeUse(written, written, "enum", False)
        answer = await describe(self._target, f"SELECT NULL::{text}")
        if isinstance(answer, Failure):
            known = [row[0] for row in await self._target.fetch(_TYPE_NAMES)]
            known += [write_table(enum) for enum in self._enums]
            hint = nearest(text, known)
            if re.fullmatch(r"(small|big)?serial", text.strip(), re.IGNORECASE):
                hint = "write the integer type and `identity: by default`"
            self._problems.refused(where, answer, expected="a type that the target knows", hint=hint)
            return None
        oid = await self._target.fetchval(_TYPE_OID, text)
        written = await self._format(oid, text)
        return await self.existing(oid, written)

    def rewrite(self, sql: str) -> str:
        """What the source's deparser wrote, with its types called as on the target."""
        renames = {
            self._source_types[oid].sql_name: use.sql
            for oid, use in self._placed.items()
            if use is not None and self._source_types[oid].kind != "builtin"
        }
        if not any(name in sql for name in renames):
            return sql
        names = "|".join(re.escape(name) for name in sorted(renames, key=len, reverse=True))
        pattern = re.compile(rf"""'(?:[^']|'')*'|(?<![\w".])(?:{names})(?![\w".])""")
        return pattern.sub(lambda token: renames.get(token[0], token[0]), sql)

    async def _format(self, oid: int, text: str) -> str:
        """The type as format_type() writes it. There is no to_regtypemod() before 17, so a plan of NULL tells."""
        async with qualified_names(self._target):
            plain: str = await self._target.fetchval("SELECT format_type($1::oid, -1)", oid)
        if "(" not in text:
            return plain
        answer = await self._target.fetchval(f"EXPLAIN (VERBOSE, FORMAT JSON) SELECT NULL::{text}")
        output: str = json.loads(answer)[0]["Plan"]["Output"][0]
        return output.removeprefix("NULL::") if output.startswith("NULL::") else text

    async def _place(self, kind: CatalogueType, where: str) -> TypeUse | None:
        if kind.kind == "builtin":
            return TypeUse(kind.sql_name, kind.sql_name, _category(kind), kind.collatable)
        if kind.kind == "array" and kind.element_oid is not None:
            element = await self.moved(kind.element_oid, (await self.source_type(kind.element_oid)).sql_name, where)
            return element and TypeUse(f"{element.sql}[]", f"{element.sql}[]", "other", element.collatable)
        if kind.extension is not None or kind.kind == "other":
            return await self._ready_made(kind, where)
        name = TableName(schema_name=self._schemas.get(kind.schema_name, kind.schema_name), name=kind.name)
        match kind.kind:
            case "enum":
                await self._make_enum(where, name, kind.labels)
                written = await self._written(name)
                return TypeUse(written, written, "enum", False)
            case "domain":
                return await self._make_domain(where, name, kind)
        return await self._make_composite(where, name, kind)

    async def _ready_made(self, kind: CatalogueType, where: str) -> TypeUse | None:
        name = TableName(schema_name=self._schemas.get(kind.schema_name, kind.schema_name), name=kind.name)
        oid = await lookup(self._target, _TYPE_OID, qualified(name))
        if oid is None and kind.extension is not None:
            oid = await self._target.fetchval(_EXTENSION_TYPE, kind.extension, kind.name)
        if not isinstance(oid, int):
            made_by = f"of extension {kind.extension} " if kind.extension else ""
            hint = f"CREATE EXTENSION {kind.extension} on the target" if kind.extension else "create it on the target"
            self._problems.error(
                where,
                f"type {kind.sql_name} {made_by}does not exist on the target",
                expected="the same type there: Knarr makes enums, domains and composite types, no others",
                hint=hint,
            )
            return None
        return await self.existing(oid, (await self.target_type(oid)).sql_name)

    async def _make_enum(self, where: str, name: TableName, labels: list[str]) -> None:
        there = await self._there("enum", name)
        if there is not None:
            if there.kind == "enum" and there.labels == labels:
                return
            found = f"labels {listed(there.labels)}" if there.kind == "enum" else f"the kind {there.kind}"
            self._differs(where, name, "text", found, f"labels {listed(labels)}")
        if name not in self.stand_ins:
            self.stand_ins[name] = "text"
            self.objects.append(ddl.enum(name, labels))

    async def _make_domain(self, where: str, name: TableName, kind: CatalogueType) -> TypeUse | None:
        assert kind.base_oid is not None and kind.base_sql is not None
        over = await self.moved(kind.base_oid, kind.base_sql, where)
        if over is None:
            return None
        use = TypeUse(await self._written(name), over.base, over.category, kind.collatable)
        there = await self._there("domain", name)
        if there is not None:
            has = (there.base_sql, there.not_null, sorted(there.checks))
            if there.kind == "domain" and has == (over.sql, kind.not_null, sorted(kind.checks)):
                return use
            found = f"{there.kind} over {there.base_sql} {' '.join(there.checks)}".strip()
            self._differs(where, name, over.sql, found, f"domain over {over.sql} {' '.join(kind.checks)}".strip())
        if name not in self.stand_ins:
            self.stand_ins[name] = over.sql
            checks = list(zip(kind.check_names, kind.checks, strict=True))
            self.objects.append(
                ddl.domain(
                    name, over.sql, collation=kind.collation, default_sql=kind.default_sql,
                    not_null=kind.not_null, checks=checks,
                )
            )  # fmt: skip
        return use

    async def _make_composite(self, where: str, name: TableName, kind: CatalogueType) -> TypeUse | None:
        attributes: list[tuple[str, str]] = []
        for attribute, oid, attribute_type in zip(
            kind.attribute_names, kind.attribute_oids, kind.attribute_types, strict=True
        ):
            use = await self.moved(oid, attribute_type, where)
            if use is None:
                return None
            attributes.append((attribute, use.sql))
        written = await self._written(name)
        there = await self._there("composite", name)
        if there is not None:
            has = list(zip(there.attribute_names, there.attribute_types, strict=True))
            if there.kind == "composite" and has == attributes:
                return TypeUse(written, written, "other", False)
            shown = [[f"{attribute} {type_sql}" for attribute, type_sql in one] for one in (has, attributes)]
            self._differs(where, name, "text", f"({', '.join(shown[0])})", f"({', '.join(shown[1])})")
        if name not in self.stand_ins:
            self.stand_ins[name] = "text"
            self.objects.append(ddl.composite(name, attributes))
        return TypeUse(written, written, "other", False)

    async def _written(self, name: TableName) -> str:
        """The name as format_type() will write it: in quotes only where they are needed."""
        query = "SELECT pg_catalog.quote_ident($1) || '.' || pg_catalog.quote_ident($2)"
        written: str = await self._target.fetchval(query, name.schema_name, name.name)
        return written

    async def _there(self, kind: str, name: TableName) -> CatalogueType | None:
        """The type of that name on the target, unless this run made it in an earlier attempt."""
        if (kind, str(name)) in self._own:
            return None
        oid = await lookup(self._target, _TYPE_OID, qualified(name))
        return await self.target_type(oid) if isinstance(oid, int) else None

    def _differs(self, where: str, name: TableName, stand_in: str, found: str, expected: str) -> None:
        self.stand_ins[name] = stand_in  # it is said once, here: not also as an object in the way
        self._problems.error(
            where,
            f"type {write_table(name)} exists on the target with {found}",
            expected=expected,
            hint="make them equal, or move the table into another schema",
        )


def _category(kind: CatalogueType) -> Literal["builtin", "enum", "other"]:
    if kind.kind == "enum":
        return "enum"
    plain = kind.kind == "builtin" and kind.has_binary and kind.name.lstrip("_") not in _NAMED_BY_OID
    return "builtin" if plain else "other"
