"""The engine of Knarr: plans, PostgreSQL, verification and the audit trail; it knows nothing of Temporal."""

__version__ = "0.1.0"
