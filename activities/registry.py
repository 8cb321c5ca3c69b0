"""Every activity of the house, for the worker."""

from collections.abc import Callable
from typing import Any

from activities import context
from activities.build import (
    add_foreign_keys,
    build_keys,
    create_tables,
    drop_foreign_keys,
    drop_keys,
    drop_tables,
    reset_sequences,
    set_sequences,
)
from activities.claim import claim_target, end_run, release_target
from activities.copy import copy_partitions, remove_rows
from activities.decide import record_decision
from activities.guard import check_guards
from activities.prove import record_proofs
from activities.repair import repair_rows
from activities.seal import record_checkpoint, remove_checkpoint, request_cancel, seal_run, unseal_run
from activities.survey import discard_survey, recall_survey, survey_databases
from activities.undo import raise_epoch
from activities.undo_log import drop_undo_log
from activities.verify import (
    conclude_verification,
    verify_cross_check,
    verify_downstream,
    verify_integrity,
    verify_partitions,
    verify_rules,
    withdraw_verdict,
)
from knarr.postgres.session import Pools


def all_activities(pools: Pools) -> list[Callable[..., Any]]:
    """Binds this process's connections and returns what a Temporal worker registers."""
    context.use(pools)
    return [
        claim_target,
        release_target,
        survey_databases,
        recall_survey,
        discard_survey,
        create_tables,
        drop_tables,
        copy_partitions,
        remove_rows,
        build_keys,
        drop_keys,
        set_sequences,
        reset_sequences,
        add_foreign_keys,
        drop_foreign_keys,
        verify_partitions,
        verify_integrity,
        verify_rules,
        verify_cross_check,
        verify_downstream,
        repair_rows,
        conclude_verification,
        withdraw_verdict,
        record_proofs,
        record_checkpoint,
        remove_checkpoint,
        seal_run,
        unseal_run,
        drop_undo_log,
        end_run,
        request_cancel,
        check_guards,
        record_decision,
        raise_epoch,
    ]
