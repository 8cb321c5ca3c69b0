"""Every workflow of the house, for the worker."""

from workflows.migration import MigrationWorkflow
from workflows.move import MoveMappingWorkflow
from workflows.verification import VerificationWorkflow

ALL_WORKFLOWS = [MigrationWorkflow, MoveMappingWorkflow, VerificationWorkflow]
