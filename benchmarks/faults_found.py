"""Which of the faults that independent tests found are back?

    python benchmarks/faults_found.py [NAME ...]

Each fault has regression tests: the table below names them. They run in one call of pytest, without
docker or podman on the path. A fault counts as back if one of its tests fails, is skipped, or no
longer exists. The last line is one JSON object; its value is the number of faults that are back.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from xml.etree import ElementTree

import machine

#: Fault → pytest node ids, or files, of its regression tests.
FAULTS: dict[str, tuple[str, ...]] = {
    "large-bodies": (
        "tests/unit/test_api_large_bodies.py",
        "tests/integration/test_large_bodies.py::test_no_large_body_of_a_client_holds_the_loop",
        "tests/integration/test_large_bodies.py::test_no_large_body_of_a_worker_holds_the_loop",
    ),
    "hostile-cards": (
        "tests/unit/test_card_limits.py",
        "tests/integration/test_large_bodies.py::test_a_card_with_as_many_patterns_as_fit_is_refused_soon",
    ),
    "writes-wake-idle-workers": (
        "tests/conformance/test_waiting.py",
        "tests/conformance/test_delivery.py::TestSqlite::test_a_task_that_becomes_ready_wakes_one_of_those_who_wait_for_its_queue",
        "tests/conformance/test_delivery.py::TestPostgres::test_a_task_that_becomes_ready_wakes_one_of_those_who_wait_for_its_queue",
    ),
    "object-store-refuses": (
        "tests/unit/test_api_writable.py",
        "tests/unit/test_history.py::test_no_task_may_die_of_uploads_that_failed",
    ),
    "clock-set-back": (
        "tests/unit/test_api_tasks.py::test_a_clock_set_back_by_an_hour_holds_up_the_task_of_a_dead_worker_for_two_leases",
        "tests/conformance/test_delivery.py::TestSqlite::test_a_clock_set_back_ends_a_lost_lease_within_its_usual_length",
        "tests/conformance/test_delivery.py::TestSqlite::test_a_clock_set_back_leaves_a_live_worker_its_lease",
        "tests/conformance/test_delivery.py::TestSqlite::test_a_clock_set_back_shortens_a_backoff_to_the_longest",
        "tests/conformance/test_delivery.py::TestPostgres::test_a_clock_set_back_ends_a_lost_lease_within_its_usual_length",
        "tests/conformance/test_delivery.py::TestPostgres::test_a_clock_set_back_ends_a_lost_lease_that_was_extended_for_an_hour",
        "tests/conformance/test_delivery.py::TestPostgres::test_a_clock_set_back_leaves_a_live_worker_its_lease",
        "tests/conformance/test_delivery.py::TestPostgres::test_a_clock_set_back_shortens_a_backoff_to_the_longest",
        "tests/conformance/test_registry.py::TestSqliteRegistry::test_a_clock_set_back_frees_the_duty_of_a_process_that_is_gone",
        "tests/conformance/test_registry.py::TestPostgresRegistry::test_a_clock_set_back_frees_the_duty_of_a_process_that_is_gone",
    ),
    "clocks-of-backends-differ": ("tests/integration/test_clock_skew.py",),
    "nan-is-a-black-picture": (
        "tests/unit/test_denoise.py::test_of_samples_drawn_together_the_one_that_is_not_a_number_fails",
        "tests/unit/test_denoise.py::test_what_is_not_a_number_on_a_device_fails_when_its_file_is_made",
        "tests/unit/test_step_runner.py::test_a_grey_picture_of_what_is_not_a_number_fails_its_task",
    ),
    "start-on-a-full-disk": (
        "tests/acceptance/test_full_disk.py",
        "tests/unit/test_sqlite_file.py::test_room_is_kept_for_a_start_on_a_full_disk",
    ),
    "model-starves-beside-pipelines": (
        "tests/conformance/test_delivery.py::TestSqlite::test_the_model_of_a_stage_takes_turns_with_another_model",
        "tests/conformance/test_delivery.py::TestPostgres::test_the_model_of_a_stage_takes_turns_with_another_model",
    ),
    "webhook-hosts-that-hang": (
        "tests/integration/test_webhook_dispatcher.py::test_receivers_that_hang_hold_up_no_other_receiver_of_their_key",
        "tests/unit/test_webhooks.py::test_hosts_that_hang_hold_up_no_other_host_of_their_key",
        "tests/unit/test_webhooks.py::test_hosts_that_answered_before_they_hang_hold_up_no_other_host_of_their_key",
    ),
    "calibration-and-meters": (
        "tests/unit/test_api_calibration.py::test_a_model_whose_tasks_never_end_leaves_room_for_what_others_teach",
        "tests/unit/test_api_many.py::test_an_end_that_was_missed_closes_the_estimate_of_its_task",
        "tests/unit/test_api_limits.py::test_a_key_that_asks_all_the_time_gets_no_new_allowance_when_many_other_keys_ask",
        "tests/unit/test_api_limits.py::test_a_key_whose_tasks_are_being_accepted_is_not_forgotten",
    ),
    "contention-cuts-connections": (
        "tests/integration/test_postgres_flights.py::test_a_group_that_loses_many_races_fails_only_what_collides_and_keeps_its_connection",
        "tests/integration/test_postgres_flights.py::test_a_row_that_another_session_locks_fails_only_what_needs_it",
    ),
    "trailers-and-hosts": (
        "tests/integration/test_http_connection.py::test_a_key_in_a_trailer_is_no_key",
        "tests/integration/test_http_connection.py::test_an_idempotency_key_in_a_trailer_is_none",
        "tests/integration/test_http_connection.py::test_a_host_in_a_trailer_is_none",
        "tests/integration/test_http_connection.py::test_a_head_that_two_programs_read_differently_is_refused",
    ),
    "idempotency-of-other-apis": (
        "tests/unit/test_facade_fal.py::test_the_same_idempotency_key_gives_the_same_request",
        "tests/unit/test_facade_fal.py::test_an_idempotency_key_is_of_one_key_one_app_and_one_body",
        "tests/unit/test_facade_openai.py::test_the_same_idempotency_key_gives_the_same_pictures",
        "tests/unit/test_facade_openai.py::test_the_same_idempotency_key_gives_the_same_edit_of_the_same_files",
        "tests/unit/test_facade_libretranslate.py::test_the_same_idempotency_key_translates_once",
        "tests/unit/test_facade_replicate.py::test_an_idempotency_key_is_of_one_model",
    ),
    "client-after-fork": ("tests/integration/test_forked_client.py",),
    "unseen-failures": (
        "tests/unit/test_background.py",
        "tests/unit/test_sqlite_file.py::test_a_log_that_cannot_be_moved_is_logged_once_and_moved_later",
        "tests/unit/test_task.py::test_a_forked_process_draws_other_ids_and_tokens",
        "tests/conformance/test_registry.py::TestSqliteRegistry::test_what_others_ask_for_a_version_is_what_was_told_last",
        "tests/conformance/test_registry.py::TestPostgresRegistry::test_what_others_ask_for_a_version_is_what_was_told_last",
    ),
    "files-left-or-cut": (
        "tests/conformance/test_objects.py::TestFolderObjects::test_the_folders_of_deleted_files_go_with_the_last_one",
        "tests/conformance/test_objects.py::TestFolderObjects::test_a_file_is_stored_though_its_folder_goes_before_it_is_moved_there",
        "tests/unit/test_api_task_files.py::test_a_file_of_another_size_than_its_task_says_is_not_served",
        "tests/unit/test_api_files.py::test_an_upload_that_was_cut_since_is_not_served",
    ),
    "backends-without-prices": (
        "tests/unit/test_api_costs.py::test_backends_without_pools_charge_by_the_autoscalers_prices",
        "tests/unit/test_api_costs.py::test_a_worker_without_a_price_gets_that_of_its_pool_later",
    ),
    "worker-without-backend": (
        "tests/integration/test_worker_without_backend.py",
        "tests/unit/test_backend_session.py::test_a_backend_that_answers_nothing_for_long_is_given_up",
        "tests/unit/test_backend_session.py::test_one_answer_is_enough_to_go_on_waiting",
    ),
    "secrets-in-images": (
        "tests/unit/test_container_packing.py::test_what_looks_like_a_secret_in_an_included_folder_is_refused",
        "tests/unit/test_container_packing.py::test_a_secret_that_is_named_itself_goes_in",
        "tests/unit/test_container_packing.py::test_a_file_may_have_the_name_of_a_secret",
        "tests/unit/test_container_packing.py::test_a_file_may_hold_what_only_secrets_hold",
    ),
    "english-is-translated": (
        "tests/unit/test_built_in_translate.py",
        "tests/unit/test_built_in_artwork.py::test_a_prompt_that_cannot_be_translated_is_drawn_with_warnings_that_say_so",
        "tests/unit/test_built_in_artwork.py::test_the_note_comes_with_the_picture",
    ),
    "tests-need-a-container-engine": (
        "tests/unit/test_autoscaling.py::test_a_worker_elsewhere_is_told_nothing_of_this_machine",
        "tests/unit/test_provider_factory.py::test_other_providers_hear_that_a_pool_may_be_taken_back_too",
    ),
}

#: Container engines, hidden from the tests.
HIDDEN = ("docker", "podman")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help="all by default")
    chosen = parser.parse_args().names or list(FAULTS)
    if unknown := set(chosen) - set(FAULTS):
        parser.error(f"no such fault: {', '.join(sorted(unknown))}; there are {', '.join(FAULTS)}")
    with tempfile.TemporaryDirectory() as folder:
        results = run({node for name in chosen for node in FAULTS[name]}, Path(folder))
    back = {}
    for name in chosen:
        wrong = {node: why for node in FAULTS[name] if (why := verdict(node, results)) != "passed"}
        if wrong:
            back[name] = wrong
        machine.say(f"{'back' if wrong else 'gone'}: {name}")
    tests = sum(len(FAULTS[name]) for name in chosen)
    machine.report(float(len(back)), {"faults": len(chosen), "tests": tests, "back": back})
    return 1 if back else 0


def run(nodes: set[str], folder: Path) -> dict[str, str]:
    """Run tests and return what became of each case, by its dotted name."""
    report = folder / "report.xml"
    command = [sys.executable, "-m", "pytest", "-n", "2", "--dist", "loadfile"]
    command += [
        f"--basetemp={folder / 'pytest'}",
        f"--junit-xml={report}",
        "-o",
        "junit_family=xunit1",
    ]
    subprocess.run(
        [*command, *sorted(nodes)],
        cwd=machine.ROOT,
        env=os.environ | {"PATH": path_without_engines(folder / "bin")},
        stdout=sys.stderr,
        check=False,
    )
    if not report.exists():
        return {}
    return {
        f"{case.get('classname')}.{case.get('name')}": next(
            (each.tag for each in case if each.tag in ("failure", "error", "skipped")), "passed"
        )
        for case in ElementTree.parse(report).iter("testcase")
    }


def verdict(node: str, results: dict[str, str]) -> str:
    """Return `passed` if all cases of a test passed, else what became of the first other one."""
    name = node.replace(".py", "").replace("/", ".").replace("::", ".")
    cases = [
        result
        for case, result in results.items()
        if case == name or case.startswith((f"{name}[", f"{name}."))
    ]
    return next((each for each in cases if each != "passed"), "passed") if cases else "not found"


def path_without_engines(folder: Path) -> str:
    """Return a search path on which every program is found but container engines."""
    folder.mkdir()
    kept = []
    for entry in os.environ["PATH"].split(os.pathsep):
        if any(shutil.which(name, path=entry) for name in HIDDEN):
            for program in Path(entry).iterdir():
                link = folder / program.name
                if program.name not in HIDDEN and not link.exists():
                    link.symlink_to(program)
        else:
            kept.append(entry)
    return os.pathsep.join([*kept, str(folder)])


if __name__ == "__main__":
    sys.exit(main())
