"""What happens in which order: the saga, the migration, one child per mapping, and verification."""

from workflows.migration import MigrationWorkflow
from workflows.move import MoveMappingWorkflow
from workflows.verification import VerificationWorkflow

ALL_WORKFLOWS = [MigrationWorkflow, MoveMappingWorkflow, VerificationWorkflow]

__all__ = ["ALL_WORKFLOWS", "MigrationWorkflow", "MoveMappingWorkflow", "VerificationWorkflow"]
